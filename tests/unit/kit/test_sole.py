"""A directory that is one's own."""

import os
import subprocess
import sys

import pytest

from daemon.kit import sole
from spec import errors

HOLDS = """
import sys
from daemon.kit import sole
with sole.held(sys.argv[1], "state"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    says = rf"^state {tmp_path}: another daemon has it \(pid {os.getpid()}\)"
    with sole.held(str(tmp_path), "state"):
        with pytest.raises(errors.FailedPrecondition, match=says), sole.held(str(tmp_path), "state"):
            pytest.fail("held twice")
        assert os.listdir(tmp_path) == []
    with sole.held(str(tmp_path), "state"):
        pass


def test_who_is_killed_holds_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(errors.FailedPrecondition, match=f"pid {process.pid}"), sole.held(str(tmp_path), "state"):
            pytest.fail("held twice")
        process.kill()
        process.wait()
        with sole.held(str(tmp_path), "state"):
            pass


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(errors.NotFound, match="opening state"), sole.held(str(tmp_path / "none"), "state"):
        pytest.fail("held")
