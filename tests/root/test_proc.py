"""Namespaces, the subreaper and close_range."""

import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from pyx import proc

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]


def in_thread(function):
    """What it returns or raises in a thread of its own, whose namespaces end with it."""
    outcome = Future()

    def work():
        try:
            outcome.set_result(function())
        except OSError as exc:
            outcome.set_exception(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome.result()


def run(code, *args, **kwargs):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=REPOSITORY, capture_output=True, text=True, **kwargs
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def uts():
    return os.readlink("/proc/thread-self/ns/uts")


def test_a_thread_leaves_its_namespace_and_returns():
    def leave_and_return():
        here = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        try:
            proc.unshare(proc.CLONE_NEWUTS)
            away = uts()
            proc.setns(here, proc.CLONE_NEWUTS)
            return away, uts()
        finally:
            os.close(here)

    before = uts()
    away, back = in_thread(leave_and_return)
    assert away != before
    assert back == before == uts()


def test_what_is_no_namespace():
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            proc.setns(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Invalid argument"):
        in_thread(lambda: proc.unshare(proc.CLONE_NEWUSER))  # not of one thread among several


def test_a_user_namespace_has_the_maps_and_nobody_in_it():
    fd = proc.user_namespace("0 100000 10\n20 200000 5\n", "0 300000 1\n")
    try:
        assert not os.get_inheritable(fd)
        code = """
import sys
from pyx import proc
proc.setns(int(sys.argv[1]), proc.CLONE_NEWUSER)
print(open("/proc/self/uid_map").read().split(), open("/proc/self/gid_map").read().split())
"""
        said = run(code, fd, pass_fds=[fd])
    finally:
        os.close(fd)
    assert said == "['0', '100000', '10', '20', '200000', '5'] ['0', '300000', '1']"


@pytest.mark.parametrize("maps", [("nonsense", "0 0 1"), ("0 0 1", ""), ("0 0 1\n0 5 1\n", "0 0 1")])
def test_a_user_namespace_of_wrong_maps_is_gone(maps):
    with pytest.raises(OSError, match="Invalid argument"):
        proc.user_namespace(*maps)


def test_orphans_come_to_the_subreaper():
    code = """
import os
from pyx import proc
proc.set_child_subreaper()
if not os.fork():
    if not os.fork():
        while os.getppid() != int(os.environ["PARENT"]):
            pass
        os._exit(7)
    os._exit(0)
print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)])
proc.set_child_subreaper(False)
"""
    code = code.replace("import os\n", "import os\nos.environ['PARENT'] = str(os.getpid())\n", 1)
    assert run(code, timeout=30) == "[0, 7]"


def test_a_range_of_descriptors():
    code = """
import os
from pyx import proc
fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(6)]
for fd in fds:
    os.set_inheritable(fd, True)
proc.close_range(fds[1], fds[2])
proc.close_range(fds[4], 0xFFFFFFFF, proc.CLOSE_RANGE_CLOEXEC)
print([os.path.exists(f"/proc/self/fd/{fd}") for fd in fds], os.get_inheritable(fds[3]), os.get_inheritable(fds[4]))
"""
    assert run(code) == "[True, False, False, True, True, True] True False"
    with pytest.raises(OSError, match="Invalid argument"):
        proc.close_range(5, 4)
