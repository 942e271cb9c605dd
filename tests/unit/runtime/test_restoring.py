"""A checkpoint's tar in a bundle: files and directories, and nothing that leads elsewhere."""

import io
import os
import tarfile

import pytest

from daemon.runtime.bundle import Bundle
from daemon.runtime.restoring import IMAGES, unpack
from spec import errors


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "bundle").mkdir()
    return Bundle(str(tmp_path / "bundle"))


def tar(tmp_path, *members, end=None):
    """A descriptor of a tar of (name, data or type, link)."""
    with tarfile.open(tmp_path / "tar", "w") as archive:
        for name, what, *link in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, str):
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what.encode()))
            else:
                info.type = what
                info.linkname = link[0] if link else ""
                archive.addfile(info)
    if end is not None:
        os.truncate(tmp_path / "tar", end)
    return (tmp_path / "tar").open("rb")


def test_what_criu_wrote(tmp_path, bundle):
    with tar(tmp_path, (".", tarfile.DIRTYPE), ("./core-1.img", "one"), ("sub/x.img", "two")) as file:
        file.read(10)  # wherever it stands
        unpack(file.fileno(), bundle, "create task c")
    top = tmp_path / "bundle" / IMAGES
    assert (top / "core-1.img").read_text() == "one"
    assert (top / "sub/x.img").read_text() == "two"
    assert {oct(path.stat().st_mode & 0o777) for path in (top, top / "sub")} == {"0o700"}


@pytest.mark.parametrize(
    "member",
    [
        ("/etc/x", "data"),
        ("../x", "data"),
        ("a/../../x", "data"),
        ("descriptors.json", tarfile.SYMTYPE, "/etc/passwd"),
        ("descriptors.json", tarfile.LNKTYPE, "/etc/passwd"),
        ("core-1.img", tarfile.FIFOTYPE),
        ("core-1.img", tarfile.CHRTYPE),
        ("core-1.img", tarfile.BLKTYPE),
        (".", "data"),
    ],
)
def test_what_no_checkpoint_has(tmp_path, bundle, member):
    with tar(tmp_path, member) as file, pytest.raises(errors.InvalidArgument, match="create task c: its checkpoint"):
        unpack(file.fileno(), bundle, "create task c")
    assert os.listdir(bundle.at(IMAGES)) == []
    assert not (tmp_path / "x").exists()


def test_a_file_twice(tmp_path, bundle):
    with tar(tmp_path, ("a", "1"), ("a", "2")) as file, pytest.raises(errors.AlreadyExists, match="checkpoint"):
        unpack(file.fileno(), bundle, "create task c")


def test_what_is_no_tar_or_but_half_of_one(tmp_path, bundle):
    with tar(tmp_path, ("a", "x" * 4000), end=1024) as file, pytest.raises(errors.InvalidArgument, match="no tar"):
        unpack(file.fileno(), bundle, "create task c")
    (tmp_path / "text").write_text("x" * 600)
    with (tmp_path / "text").open("rb") as file, pytest.raises(errors.InvalidArgument, match="no tar"):
        unpack(file.fileno(), bundle, "create task c")
