"""Archives of changes: what other tars and our own unpacker make of them, and the plain twin that must agree."""

import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from contextlib import contextmanager

import pytest

from pyx.changes import Changes
from pyx.pack import Packer, Reserved, Shrunk
from pyx.unpack import Unpacker
from tests.root.test_trees import entries, grow

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_raw, revision 2
BEYOND = 8**11  # what no octal field of a header holds


@contextmanager
def opened(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def records(*changes):
    return b"".join(os.fsencode(change.replace(" ", "", 1)) + b"\0" for change in changes)


def packed(root, changes, latest=None, chunk=1000):
    """The archive of records, or of whole blocks of them, in pieces of `chunk` bytes."""
    out = bytearray()
    blocks = [changes] if isinstance(changes, bytes) else changes
    with opened(root) as fd, Packer(fd, latest) as packer:
        buffer = bytearray(chunk)
        for block in blocks:
            packer.feed(block)
            while size := packer.readinto(buffer):
                out += buffer[:size]
        packer.finish()
        while size := packer.readinto(buffer):
            out += buffer[:size]
    return bytes(out)


def whole(root):
    """Records of all that is in a tree."""
    with opened(root) as fd, Changes(-1, fd) as walk:
        blocks = []
        while block := walk.read():
            blocks.append(block)
    return blocks


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getmembers()


def listed(archive):
    """Names as `tar t` shows them, with a link's target."""
    return [
        member.name + ("/" if member.isdir() else "") + (f" => {member.linkname}" if member.islnk() else "")
        for member in members(archive)
    ]


def unpacked(archive, target):
    target.mkdir()
    with opened(target) as fd, Unpacker(fd) as unpacker:
        unpacker.feed(archive)
        unpacker.finish()


def kept(path, xattrs=("security.capability",)):
    """What an archive keeps of a tree."""
    found = {}
    for name, (mode, uid, gid, rdev, mtime_ns, content, keys, first) in entries(path).items():
        if name != "." and not stat.S_ISSOCK(mode):
            keys = {key: value for key, value in keys.items() if key in xattrs}
            found[name] = (mode, uid, gid, rdev, mtime_ns // 10**9, content, keys, first)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_tar_makes_the_tree_of_it_again(tmp_path, seed):
    source = tmp_path / "source"
    grow(source, seed)
    file = next(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    os.setxattr(file, "security.capability", CAPABILITY)
    archive = packed(source, whole(source))
    unpacked(archive, tmp_path / "ours")
    assert kept(tmp_path / "ours") == kept(source)
    (tmp_path / "gnu").mkdir()
    argv = ["tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", tmp_path / "gnu"]
    done = subprocess.run(argv, input=archive, capture_output=True, check=True)
    assert done.stderr == b""
    assert kept(tmp_path / "gnu") == kept(source)


def plain(root):
    """The twin, by Python's own tar: one whole tree, in the order of names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        first = {}
        for path in sorted(root.rglob("*"), key=lambda path: os.fsencode(path).split(b"/")):
            info = os.lstat(path)
            member = tar.gettarinfo(path, os.path.relpath(path, root))
            member.mode, member.mtime = info.st_mode & 0o7777, info.st_mtime_ns // 10**9
            member.uname = member.gname = ""
            if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
                source = first.setdefault(info.st_ino, member.name)
                if source != member.name:
                    member.type, member.linkname, member.size = tarfile.LNKTYPE, source, 0
                else:
                    member.type = tarfile.REGTYPE if stat.S_ISREG(info.st_mode) else member.type
                    member.size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            tar.addfile(member, io.BytesIO(path.read_bytes()) if member.isreg() else None)
    return out.getvalue()


def facts(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [
            (member.get_info() | {"chksum": 0}, tar.extractfile(member).read() if member.isreg() else None)
            for member in tar
        ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5, 10))
def test_the_plain_twin_agrees(tmp_path, seed):
    source = tmp_path / "source"
    grow(source, seed)
    assert facts(packed(source, whole(source))) == facts(plain(source))


def test_no_chunking_makes_a_difference(tmp_path):
    source = tmp_path / "source"
    for number in range(40):
        place = source / f"{number % 7}" / ("n" * number * 3 + str(number))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes([number]) * number * 37)
    os.link(place, source / "9")
    blocks = whole(source)
    expected = packed(source, blocks, chunk=1 << 20)
    assert len(expected) % 512 == 0
    assert expected.endswith(bytes(1024))
    apart = [record + b"\0" for record in b"".join(blocks)[:-1].split(b"\0")]
    for chunk in (1, 511, 512, 513, 7_000):
        assert packed(source, apart, chunk=chunk) == expected


@pytest.mark.parametrize("name", [
    "n" * 100, "n" * 101, "d" * 99 + "/f", "d" * 100 + "/f", "d" * 255 + "/" + "f" * 255, "\N{SNOWMAN}" * 30,
    "\N{SNOWMAN}" * 80, os.fsdecode(b"\xff"), os.fsdecode(b"\xff" * 101), os.fsdecode(b"\xed\xa0\x80" * 40),
    os.fsdecode(b"\xc0\xaf" * 60), os.fsdecode(b"n" * 100 + b"\xe2\x98"), "\U0010ffff" * 40, "new\nline", " 12 path=x",
    "/".join("d" * 200 for _ in range(15)),
])  # fmt: skip
def test_names(tmp_path, name):
    source = tmp_path / "source"
    place = source / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"content")
    os.link(place, source / "zz")
    place.with_name("zs").symlink_to(("t" * 200 + "/") * (len(name) % 10) + name)
    archive = packed(source, whole(source))
    unpacked(archive, tmp_path / "ours")
    assert kept(tmp_path / "ours") == kept(source)
    (tmp_path / "gnu").mkdir()
    subprocess.run(["tar", "-xp", "-C", tmp_path / "gnu"], input=archive, capture_output=True, check=True)
    assert kept(tmp_path / "gnu") == kept(source)
    assert os.fsencode(name) in [os.fsencode(member.name) for member in members(archive)]


def test_an_archive_of_nothing(tmp_path):
    assert packed(tmp_path, []) == bytes(1024)


@pytest.mark.parametrize(
    ("mtime_ns", "latest", "expected"),
    [
        (1_999_999_999, None, 1), (0, None, 0), (-1, None, -1), (-1_500_000_000, None, -2),
        (BEYOND * 10**9, None, BEYOND),
        (5 * 10**9, 4, 4), (5 * 10**9, 5, 5), (5 * 10**9, 6, 5), (5 * 10**9, 0, 0), (5 * 10**9, -3, -3),
    ],
)  # fmt: skip
def test_times_are_whole_seconds_and_none_is_too_late(tmp_path, mtime_ns, latest, expected):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").touch()
    for name in ("d/f", "d"):
        os.utime(tmp_path / name, ns=(mtime_ns, mtime_ns))
    if os.stat(tmp_path / "d").st_mtime_ns != mtime_ns:
        pytest.skip("this filesystem has no such times")
    found = members(packed(tmp_path, records("A d/f", "D d/gone"), latest))
    assert [member.mtime for member in found] == [expected, expected, 0]


def test_numbers_beyond_octal(tmp_path):
    (tmp_path / "f").touch()
    os.chown(tmp_path / "f", 8**7, 2**32 - 2)
    (member,) = members(packed(tmp_path, records("A f")))
    assert (member.uid, member.gid) == (8**7, 2**32 - 2)
    os.truncate(tmp_path / "f", BEYOND)  # a hole of 8 GiB
    head = bytearray(4096)
    with opened(tmp_path) as fd, Packer(fd) as packer:
        packer.feed(records("A f"))
        assert packer.readinto(head) == len(head)
    with tarfile.open(fileobj=io.BytesIO(head)) as tar:
        assert tar.next().size == BEYOND


def test_parents_come_once_and_first(tmp_path):
    (tmp_path / "a/b/c").mkdir(parents=True)
    for name in ("a/b/c/x", "a/b/c/y", "a/z"):
        (tmp_path / name).touch()
    changes = records("M a/b/c/x", "D a/b/c/gone", "A a/b/c/y", "M a/z", "D gone")
    assert listed(packed(tmp_path, changes)) == [
        "a/", "a/b/", "a/b/c/", "a/b/c/x", "a/b/c/.wh.gone", "a/b/c/y", "a/z", ".wh.gone"
    ]  # fmt: skip


def test_names_that_did_not_change_follow_their_inode(tmp_path):
    for name in ("a/one", "b/two", "c/new", "d/alone"):
        (tmp_path / name).parent.mkdir()
    (tmp_path / "c/new").write_text("x")
    for name in ("a/one", "b/two"):
        os.link(tmp_path / "c/new", tmp_path / name)
    (tmp_path / "d/alone").touch()
    changes = records("U a/one", "U b/two", "A c/new", "U d/alone")
    assert listed(packed(tmp_path, changes)) == [
        "c/", "c/new", "a/", "a/one => c/new", "b/", "b/two => c/new"
    ]  # fmt: skip
    assert listed(packed(tmp_path, records("A a/one", "U b/two", "U c/new"))) == [
        "a/", "a/one", "b/", "b/two => a/one", "c/", "c/new => a/one"
    ]  # fmt: skip
    assert listed(packed(tmp_path, records("U a/one", "U b/two"))) == []


def test_links_to_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a")
    (tmp_path / "c").symlink_to("nowhere")
    os.link(tmp_path / "a", tmp_path / "b")
    os.link(tmp_path / "c", tmp_path / "d", follow_symlinks=False)
    assert listed(packed(tmp_path, whole(tmp_path))) == ["a", "b => a", "c", "d => c"]


def test_sockets_are_left_out(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    (tmp_path / "t").touch()
    assert listed(packed(tmp_path, whole(tmp_path))) == ["t"]


@pytest.mark.parametrize("change", ["A d/.wh.f", "D d/.wh.f", "D .wh..wh..opq", "A .wh."])
def test_a_name_that_would_be_a_whiteout(tmp_path, change):
    (tmp_path / "d").mkdir()
    with pytest.raises(Reserved, match=r"\.wh\.") as caught:
        packed(tmp_path, records(change))
    assert caught.value.entry == change[2:].encode()


def test_a_file_that_becomes_shorter(tmp_path):
    (tmp_path / "f").write_bytes(bytes(100_000))
    with opened(tmp_path) as fd, Packer(fd) as packer:
        packer.feed(records("A f"))
        assert packer.readinto(bytearray(1000)) == 1000
        os.truncate(tmp_path / "f", 5000)
        with pytest.raises(Shrunk) as caught:
            packer.readinto(bytearray(100_000))
        assert caught.value.entry == b"f"


def test_a_file_that_becomes_longer(tmp_path):
    (tmp_path / "f").write_bytes(b"1" * 600)
    with opened(tmp_path) as fd, Packer(fd) as packer:
        packer.feed(records("A f"))
        head = bytearray(512)
        packer.readinto(head)
        with open(tmp_path / "f", "ab") as file:
            file.write(b"2" * 600)
        rest = bytearray(2000)
        assert packer.readinto(rest) == 1024
        assert rest[:1024] == b"1" * 600 + bytes(424)


def test_a_link_on_the_way_leads_nowhere(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/f").write_text("secret")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/d").symlink_to(tmp_path / "secret")
    for change in ("A d/f", "D d/f"):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            packed(tmp_path / "tree", records(change))
    with pytest.raises(FileNotFoundError) as caught:
        packed(tmp_path / "tree", records("A nosuch"))
    assert caught.value.filename == "nosuch"


def test_what_it_is_fed(tmp_path):
    (tmp_path / "f").write_bytes(bytes(2000))
    with opened(tmp_path) as fd, Packer(fd) as packer:
        with pytest.raises(ValueError, match="end"):
            packer.feed(b"Af")
        packer.feed(records("A f", "D g"))
        assert packer.readinto(bytearray(512)) == 512
        for call in (lambda: packer.feed(records("D h")), packer.finish):
            with pytest.raises(ValueError, match="not read"):
                call()
        packer.close()
        packer.close()
        with pytest.raises(ValueError, match="closed"):
            packer.readinto(bytearray(1))


def test_the_tree_is_left_as_it_was(tmp_path):
    source = tmp_path / "source"
    grow(source, 3)
    before = entries(source)
    packed(source, whole(source))
    assert entries(source) == before
    shutil.rmtree(source)
