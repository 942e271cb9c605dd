"""Every extension module has a stub, and the two say the same."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "pyx").glob("*.pyx"))


@pytest.mark.parametrize("module", MODULES)
def test_a_stub_is_equal_to_its_module(module, tmp_path):
    allowed = tmp_path / "allowed"
    allowed.write_text(f"pyx.{module}.__test__\n")  # Cython's, in every module
    argv = [sys.executable, "-m", "mypy.stubtest", f"pyx.{module}", "--allowlist", allowed]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
