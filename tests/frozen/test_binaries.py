"""The two files by themselves: static, whole, the same from each build, and in need of nothing around them."""

import os
import re
import resource
import signal
import subprocess
import sys

import pytest

from spec.version import VERSION
from tests.frozen.conftest import DIST

BUILD = DIST.parent / "packaging/freeze/build.py"
MAX_BYTES = 40_000_000  # of both together
TYPE_INTERPRETER, TYPE_DYNAMIC = 3, 2  # elf(5)


def segments(path):
    """The types of an ELF file's program headers."""
    data = path.read_bytes()
    at, size, count = (int.from_bytes(data[i : i + n], "little") for i, n in ((32, 8), (54, 2), (56, 2)))
    return [int.from_bytes(data[at + i * size : at + i * size + 4], "little") for i in range(count)]


def said(*argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, **options).stdout


@pytest.mark.parametrize("name", ["holdd", "ctr"])
def test_it_is_static(dist, name):
    assert TYPE_INTERPRETER not in segments(dist / name)
    assert b"NEEDED" not in subprocess.run(["readelf", "-d", dist / name], capture_output=True, check=True).stdout


def test_what_hardens_it(dist):
    """No stack that code runs on, tables read-only once they are filled, and holdd wherever the kernel likes."""
    for name in ("holdd", "ctr"):
        headers = said("readelf", "-hlW", dist / name)
        assert re.search(r"GNU_STACK .* RW +0x", headers)
        assert "GNU_RELRO" in headers
    assert re.search(r"Type: +DYN", said("readelf", "-h", dist / "holdd"))


def test_the_size(dist):
    assert sum((dist / name).stat().st_size for name in ("holdd", "ctr")) <= MAX_BYTES


def test_versions(dist):
    assert said(dist / "holdd", "--version") == f"holdd {VERSION}\n"
    assert said(dist / "ctr", "--version") == f"ctr {VERSION}\n"


def test_the_selftest_has_every_extension_module(dist):
    lines = said(dist / "holdd", "--selftest").splitlines()
    assert lines[0].endswith(", frozen")
    assert all(line.endswith(" ok") for line in lines[1:])
    assert len(lines) > 10


def test_the_selftest_can_fail(dist, tmp_path):
    done = subprocess.run(
        [dist / "holdd", "--selftest"], env={"TMPDIR": str(tmp_path)}, preexec_fn=small_files,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\nlmdb        failed: " in done.stdout
    assert "\nzstd        ok" in done.stdout
    assert not list(tmp_path.iterdir())


def small_files():
    """No file may grow beyond a page, as a store of records does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_nothing_is_looked_for_or_heeded(dist, tmp_path):
    """Not Python's library beside it, not what the environment says to Python."""
    (tmp_path / "argparse.py").write_text("raise SystemExit('found')\n")
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "PYTHONOPTIMIZE": "x"}
    assert said(dist / "ctr", "--version", cwd=tmp_path, env=environment) == f"ctr {VERSION}\n"
    trace = subprocess.run(
        ["strace", "-f", "-e", "trace=file", dist / "ctr", "--version"], capture_output=True, text=True, check=True
    ).stderr
    assert "python" not in trace.lower()


def test_output_that_nobody_reads(dist):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([dist / "ctr", "--help"], stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert done.returncode in (1, 120)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["nothing"], ["images", "pull"], ["--nothing"]])
def test_usage_errors(dist, arguments):
    done = subprocess.run([dist / "ctr", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "usage: ctr" in done.stderr


def test_two_builds_are_the_same(dist, tmp_path):
    subprocess.run([sys.executable, BUILD, "--dist", tmp_path], check=True, stdout=subprocess.DEVNULL, cwd=DIST.parent)
    for name in ("holdd", "ctr"):
        assert (tmp_path / name).read_bytes() == (dist / name).read_bytes(), f"two builds of {name} differ"
