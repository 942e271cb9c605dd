"""passwd and group of a root filesystem that nobody trusts (CVE-2026-47262 and what its first fix broke)."""

import os
import socket

import pytest

from daemon.runtime.users import SIZE_MAX, identify
from spec import errors

PASSWD = "guest:x:405:100::/:/bin/sh\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text("audio:x:18:guest\n")
    return tmp_path


def who(root, user="guest"):
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        return identify(fd, user)
    finally:
        os.close(fd)


def test_the_plain_case(root):
    assert (who(root).uid, who(root).gid, who(root).additional_gids) == (405, 100, (100, 18))


def test_numbers_need_no_files(tmp_path):
    assert who(tmp_path, "5:6").uid == 5
    (tmp_path / "etc").write_text("no directory")
    assert who(tmp_path, "5:6").uid == 5
    with pytest.raises(errors.InvalidArgument):
        who(tmp_path)


@pytest.mark.parametrize(
    ("link", "to", "real"),
    [
        ("etc/passwd", "/nix/store/x/passwd", "nix/store/x"),
        ("etc/passwd", "../../../../../nix/passwd", "nix"),
        ("etc", "/system/etc", "system/etc"),
        ("etc", "../system/etc", "system/etc"),
        ("etc", "..", "."),
    ],
)
def test_links_resolve_inside(tmp_path, link, to, real):
    (tmp_path / real).mkdir(parents=True, exist_ok=True)
    (tmp_path / real / "passwd").write_text(PASSWD)
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(to)
    assert who(tmp_path).uid == 405


def test_links_to_the_host_and_in_circles(root):
    passwd = root / "etc/passwd"
    for target in ("/etc/passwd", "passwd"):
        passwd.unlink()
        passwd.symlink_to(target)
        with pytest.raises(errors.InvalidArgument, match="symbolic links"):
            who(root, "root")
    passwd.unlink()
    passwd.symlink_to(f"/proc/{os.getpid()}/root/etc/passwd")
    with pytest.raises(errors.InvalidArgument, match="no 'root'"):
        who(root, "root")


def test_what_is_not_regular(root):
    passwd = root / "etc/passwd"
    passwd.unlink()
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    for target in ("/fifo", "/socket", "/etc"):
        passwd.symlink_to(target)
        with pytest.raises(errors.InvalidArgument, match="not a regular file"):
            who(root)
        passwd.unlink()


def test_size(root):
    passwd = root / "etc/passwd"
    passwd.write_text("#" * (SIZE_MAX - len(PASSWD) - 1) + "\n" + PASSWD)
    assert passwd.stat().st_size == SIZE_MAX
    assert who(root).uid == 405
    with passwd.open("a") as file:
        file.write("x")
    with pytest.raises(errors.InvalidArgument, match="exceeds"):
        who(root)
    with passwd.open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(errors.InvalidArgument, match="exceeds"):
        who(root)
