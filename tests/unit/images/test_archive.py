"""Images in archives: OCI layouts as tar, pipe and directory, by other people's tools and by hand."""

import io
import json
import os
import tarfile
import threading
from functools import partial

import pytest

from daemon.diff import processors
from daemon.images import tarindex
from daemon.images.archive import Archive
from daemon.kit.cancel import Token
from spec import errors
from spec.names import IMAGE_NAME, REF_NAME
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from tests.fake import MANIFEST, digest_of
from tests.tarball import archive, entry, file, folder, hardlink, long_name, pax, symlink

BLOB = b"a blob's bytes" * 1000
DIGEST = digest_of(BLOB)
undone = partial(processors.opened, media_type=OCI_LAYER_GZIP)
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def index(*names):
    """An index whose manifests are called so, by annotations."""
    entries = [{"mediaType": MANIFEST, "digest": DIGEST, "size": len(BLOB), "annotations": name} for name in names]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def files(**changes):
    """Names and bytes of a layout; None takes one out."""
    found = {
        "oci-layout": LAYOUT,
        "index.json": index({REF_NAME: "latest"}),
        f"blobs/sha256/{DIGEST[7:]}": BLOB,
        **{name.replace("_", ".").replace("..", "-"): body for name, body in changes.items()},
    }
    return {name: body for name, body in found.items() if body is not None}


def as_tar(directory, contents):
    (directory / "archive.tar").write_bytes(archive(*(file(name, body) for name, body in contents.items())))
    return os.open(directory / "archive.tar", os.O_RDONLY)


def as_python_tar(directory, contents):
    with tarfile.open(directory / "python.tar", "w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(tarfile.TarInfo("blobs"))
        for name, body in contents.items():
            about = tarfile.TarInfo(f"./{name}")
            about.size = len(body)
            about.pax_headers = {"comment": "x" * 600}
            made.addfile(about, io.BytesIO(body))
    return os.open(directory / "python.tar", os.O_RDONLY)


def as_directory(directory, contents):
    for name, body in contents.items():
        (directory / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "layout" / name).write_bytes(body)
    return os.open(directory / "layout", os.O_RDONLY | os.O_DIRECTORY)


def as_pipe(directory, contents):
    read, write = os.pipe()
    data = archive(*(file(name, body) for name, body in contents.items()))

    def feed():
        with os.fdopen(write, "wb") as pipe:
            pipe.write(data)

    threading.Thread(target=feed).start()
    return read


WAYS = [as_tar, as_python_tar, as_directory, as_pipe]


@pytest.fixture(params=WAYS)
def opened(request, tmp_path):
    """Opens an archive of some files, in each way."""
    held = []

    def make(contents):
        fd = request.param(tmp_path, contents)
        held.append(fd)
        made = Archive(fd, str(tmp_path), Token(), undone)
        held.append(made)
        return made

    yield make
    for one in reversed(held):
        one.__exit__() if isinstance(one, Archive) else os.close(one)


@pytest.mark.parametrize("offset", [0, 1, 5000, len(BLOB), len(BLOB) + 1])
def test_blobs_come_from_any_offset(opened, offset):
    source = opened(files()).fetch(Descriptor(digest=DIGEST), offset)
    read = b""
    while data := source.read(1000):
        read += data
    source.close()
    assert read == BLOB[offset:]


def test_names_are_as_the_index_has_them(opened):
    names = [{IMAGE_NAME: "example.org/a:1", REF_NAME: "1"}, {REF_NAME: "latest"}, {}]
    made = opened(files(index_json=index(*names)))
    assert [image.name for image in made.images()] == ["example.org/a:1", "latest", ""]
    assert made.resolve(DIGEST).size == len(BLOB)
    with pytest.raises(errors.NotFound):
        made.resolve("sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"oci__layout": None}, errors.InvalidArgument, "unrecognized image format.*oci-layout"),
        ({"index_json": None}, errors.InvalidArgument, "unrecognized image format.*index.json"),
        ({"oci__layout": b"{}"}, errors.InvalidArgument, "version ''"),
        ({"oci__layout": b'{"imageLayoutVersion":"2.0.0"}'}, errors.InvalidArgument, "version '2.0.0'"),
        ({"oci__layout": b"["}, errors.InvalidArgument, "oci-layout"),
        ({"index_json": b'{"manifests":3}'}, errors.InvalidArgument, "manifests"),
        ({"index_json": b" " * (4 << 20) + b"{}"}, errors.InvalidArgument, "index.json has more than"),
    ],
)
def test_what_is_no_layout(opened, changes, error, says):
    with pytest.raises(error, match=says):
        opened(files(**changes))


def test_an_index_of_four_gigabytes(tmp_path):
    """It is mostly a hole, and not read."""
    size = 4 << 30
    head = archive(file("oci-layout", LAYOUT))[:-1024] + pax(size=size) + file("index.json")
    with (tmp_path / "huge.tar").open("wb") as made:
        made.write(head)
        made.truncate(len(head) + size + 1024)
    fd = os.open(tmp_path / "huge.tar", os.O_RDONLY)
    with pytest.raises(errors.InvalidArgument, match=r"index\.json has more than"):
        Archive(fd, str(tmp_path), Token(), undone)
    os.close(fd)


def test_a_blob_that_is_not_there(opened):
    with pytest.raises(errors.NotFound, match="0000"):
        opened(files()).fetch(Descriptor(digest="sha256:" + "0" * 64))


def test_closing_ends_who_reads(opened):
    made = opened(files())
    source = made.fetch(Descriptor(digest=DIGEST))
    assert source.read(10) == BLOB[:10]
    made.close()
    with pytest.raises(errors.Canceled):
        source.read(10)
    source.close()


def test_links_lead_nowhere(tmp_path):
    """Of a directory; a tar's links are not looked at."""
    (tmp_path / "secret").write_bytes(BLOB)
    fd = as_directory(tmp_path, files())
    blob = tmp_path / "layout/blobs/sha256" / DIGEST[7:]
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    with Archive(fd, str(tmp_path), Token(), undone) as made, pytest.raises(errors.Error, match=DIGEST[7:]):
        made.fetch(Descriptor(digest=DIGEST))
    blob.unlink()
    os.mkfifo(blob)
    with Archive(fd, str(tmp_path), Token(), undone) as made, pytest.raises(errors.InvalidArgument, match="no file"):
        made.fetch(Descriptor(digest=DIGEST))
    os.close(fd)


def test_who_gives_up_on_a_pipe(tmp_path):
    read, write = os.pipe()
    token = Token()
    token.cancel("enough")
    with pytest.raises(errors.Canceled, match="enough"):
        Archive(read, str(tmp_path), token, undone)
    os.close(read)
    os.close(write)


# The index of a tar


def indexed(directory, data):
    (directory / "a.tar").write_bytes(data)
    fd = os.open(directory / "a.tar", os.O_RDONLY)
    try:
        return {name: data[at.start : at.start + at.size] for name, at in tarindex.files(fd).items()}
    finally:
        os.close(fd)


LONG = "/".join(["x" * 90] * 4)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (archive(), {}),
        (archive(file("a", b"1"), folder("d"), file("d/b", BLOB)), {"a": b"1", "d/b": BLOB}),
        (archive(file("a", b"1"), file("a", b"2")), {"a": b"2"}),
        (archive(file("/./a//b", b"1")), {"a/b": b"1"}),
        (archive(long_name(LONG), file("cut", b"1"), file("b", b"2")), {LONG: b"1", "b": b"2"}),
        (archive(pax(path=LONG, size=3), entry("cut", "0", b"12", size=0), file("b")), {LONG: b"12\0", "b": b""}),
        (archive(long_name("target", "K"), file("a", b"1")), {"a": b"1"}),
        (archive(symlink("d/l", "../a"), file("a", b"1"), symlink("m", "d/l")), {"a": b"1", "d/l": b"1", "m": b"1"}),
        (archive(file("d/a", b"1"), hardlink("l", "d/a")), {"d/a": b"1", "l": b"1"}),
        (archive(pax(linkpath="a"), symlink("l", "cut"), long_name("a", "K"), symlink("m", "cut"), file("a", b"1")),
         {"a": b"1", "l": b"1", "m": b"1"}),
        (archive(symlink("a", "b"), symlink("b", "a"), symlink("c", "c"), symlink("d", "nosuch")), {}),
        (archive(symlink("a", "/etc/passwd"), symlink("b", "../../etc/passwd"), hardlink("c", "/etc/passwd")), {}),
        (archive(file("../../etc/passwd", b"1")), {"../../etc/passwd": b"1"}),
        (archive(folder("d", size=512), file("a", b"1")), {"a": b"1"}),
        (archive(entry("pax", "g", b"11 path=xx\n"), file("a", b"1")), {"a": b"1"}),
    ],
)  # fmt: skip
def test_where_files_are(tmp_path, data, found):
    assert indexed(tmp_path, data) == found


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", errors.DataLoss),
        (b"no tar" * 100, errors.InvalidArgument),
        (archive(file("a", b"1"))[:700], errors.DataLoss),
        (file("a", b"1"), errors.DataLoss),
        (archive(entry("a", "0", b"", size=1 << 50)), errors.DataLoss),
        (archive(entry("a", "L", b"", size=1 << 40)), errors.InvalidArgument),
        (archive(entry("a", "x", b"99 path=a\n"), file("a")), errors.InvalidArgument),
        (archive(entry("a", "x", b"path=a\n"), file("a")), errors.InvalidArgument),
        (archive(entry("a", "x", b"0 a=b\n"), file("a")), errors.InvalidArgument),
        (archive(*(long_name("x" * 1_000_000) + file("cut") for _ in range(34))), errors.ResourceExhausted),
        (archive(entry("a", "0", b"", size=-5)), errors.Error),
    ],
)
def test_what_is_no_tar(tmp_path, data, error):
    with pytest.raises(error):
        indexed(tmp_path, data)
