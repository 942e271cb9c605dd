"""What is written is what others read, and what a guest said until it crashed counts."""

import subprocess

import pytest

from tests.vm.cpio import Archive
from tests.vm.lab import Result, read


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 1 << 20])
def test_others_can_read_it(tmp_path, size):
    (tmp_path / "data").write_bytes(b"x" * size)
    (tmp_path / "data").chmod(0o755)
    with (tmp_path / "archive").open("wb") as file:
        archive = Archive(file)
        archive.directory("d", 0o711)
        archive.copy("d/copied", tmp_path / "data")
        archive.symlink("d/link", "copied")
        archive.data("d/text", b"hello")
        archive.close()
    (tmp_path / "out").mkdir()
    with (tmp_path / "archive").open("rb") as file:
        subprocess.run(["busybox", "cpio", "-i"], stdin=file, cwd=tmp_path / "out", check=True, capture_output=True)
    out = tmp_path / "out/d"
    assert sorted(path.name for path in out.iterdir()) == ["copied", "link", "text"]
    assert (out / "link").read_bytes() == b"x" * size
    assert (out / "text").read_bytes() == b"hello"
    assert (out.stat().st_mode & 0o777, (out / "copied").stat().st_mode & 0o777) == (0o711, 0o755)
    assert int((out / "copied").stat().st_mtime) == int((tmp_path / "data").stat().st_mtime)


def test_what_was_said_before_a_crash(tmp_path):
    (tmp_path / "said").write_text('{"id": "a", "outcome": "passed", "seconds": 1, "text": ""}\n{"id": "b", "outc')
    answer = read(tmp_path / "said", "booting\nKernel panic")
    assert answer.results == [Result("a", "passed", 1, "")]
    assert answer.done is None
    assert answer.tail().endswith("Kernel panic")
