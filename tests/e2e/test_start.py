"""A daemon that cannot start says why in one line, ends with 1 and leaves nothing behind."""

import contextlib
import os
import socket
import subprocess

import pytest

from daemon.kit import mounting
from spec.types import Mount
from tests.containers import busybox
from tests.daemon import BIN, Daemon, passable


@pytest.fixture
def place():
    """A directory that anybody may write."""
    with passable() as path:
        path.chmod(0o777)
        yield path


def everything(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def refused(place, *args, says, before=(), **options):
    """Start a daemon there, which must not come to be."""
    there = everything(place)
    options = {"root": place / "root", "state": place / "state"} | options
    argv = [BIN / "holdd", "--config", place / "none.toml", "--root", options.pop("root"), "--state",
            options.pop("state"), *args]  # fmt: skip
    done = subprocess.run(
        [*before, *argv], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL, check=False, **options
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert everything(place) == there


@contextlib.contextmanager
def read_only(path):
    path.mkdir()
    mounting.attach([Mount(type="tmpfs", source="none", options=["ro"])], str(path))
    try:
        yield path
    finally:
        mounting.detach(str(path))


def test_not_root(place):
    says = "holdd: started by user 65534: mounts, namespaces and cgroups are made by root"
    # With the right to pass directories that are root's own, where the program may be.
    rights = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
    refused(place, says=says, before=("setpriv", "--reuid", "65534", "--clear-groups", *rights))


def test_root_without_its_rights(place):
    says = "holdd: started without the capability CAP_SYS_ADMIN"
    refused(place, says=says, before=("setpriv", "--bounding-set", "-sys_admin"))


@pytest.mark.parametrize("name", ["root", "state"])
def test_a_directory_that_cannot_be_written(place, name):
    with read_only(place / "ro") as ro:
        refused(place, says=f"holdd: {name} {ro}: it cannot be written", **{name: ro})
        refused(place, says=f"holdd: {name} {ro}/a/b: {ro} cannot be written", **{name: ro / "a/b"})
    (place / "file").touch()
    refused(place, says=f"holdd: {name} {place}/file: it is not a directory", **{name: place / "file"})
    refused(place, says=f"holdd: {name} {place}/file/a: {place}/file is not", **{name: place / "file/a"})


def test_a_socket_where_none_can_be(place):
    with read_only(place / "ro") as ro:
        refused(place, "--address", ro / "sock", says=f"holdd: address {ro}: it cannot be written")
    (place / "file").touch()
    refused(place, "--address", place / "file", says="something that is not a socket is there")


def test_a_socket_with_too_long_a_name(place):
    path = place / ("a" * 100)
    refused(place, "--address", path, says=f"holdd: listening on {path}: a socket's path has 107 bytes at most")


def test_metrics_where_they_cannot_be(place):
    config = place / "config.toml"

    def wants(address):
        config.write_text(f"[metrics]\naddress = '{address}'\n")
        return "--config", config

    refused(place, *wants("nonsense"), says="holdd: metrics: address 'nonsense' is neither HOST:PORT nor unix:///PATH")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refused(place, *wants(address), says=f"holdd: metrics: listen at {address}: address already in use")
    (place / "file").touch()
    refused(place, *wants(f"unix://{place}/file"), says=f"listening on {place}/file: something that is not a socket")


def test_no_directory_for_temporary_files(place):
    """Python looks at the usual ones, and at where it stands: here all of them are read-only."""
    script = """
        for at in /tmp /var/tmp /usr/tmp; do
            [ ! -d $at ] || { mount --bind $at $at && mount -o remount,bind,ro $at; }
        done
        exec "$@"
    """
    with read_only(place / "ro") as ro:
        refused(
            place,
            says="holdd: no directory for temporary files can be written; TMPDIR may name one",
            before=("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"),
            cwd=ro,
        )


def test_a_socket_that_a_daemon_answers_at(place, daemon):
    refused(place, "--address", daemon.address, says=f"listening on {daemon.address}: another daemon answers there")
    assert daemon.answers()


def test_a_root_that_a_daemon_has(place, daemon):
    says = f"holdd: opening metadata at {daemon.root}/metadata: another daemon has it (pid {daemon.process.pid})"
    refused(place, says=says, root=daemon.root)
    assert daemon.answers()


def test_a_state_that_a_daemon_has(place, daemon):
    """Of another root and at another address: only the tasks are in common."""
    says = f"holdd: state {daemon.state}: another daemon has it (pid {daemon.process.pid})"
    refused(place, "--address", place / "sock", says=says, state=daemon.state)
    assert daemon.answers()
    daemon.kill()
    daemon.start()


def test_a_stale_socket_is_replaced(tmp_path):
    daemon = Daemon(tmp_path)
    daemon.state.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(daemon.address)
    with daemon:
        assert daemon.answers()


@pytest.mark.parametrize("text", ["[gc\n", "gc = 1\n", "\xff"])
def test_a_configuration_that_is_none(place, text):
    (place / "config.toml").write_bytes(text.encode("latin-1"))
    refused(place, "--config", place / "config.toml", says=f"holdd: configuration {place}/config.toml")


def test_variables_of_a_service_manager_that_make_no_sense(place):
    refused(place, says="LISTEN_PID=me is not a number", env=os.environ | {"LISTEN_FDS": "1", "LISTEN_PID": "me"})


def test_no_runtime_on_path(tmp_path):
    """It serves, for images need none; what is run is refused in one line, and nothing of it is left."""
    empty = tmp_path / "empty"
    empty.mkdir()
    daemon = Daemon(tmp_path)
    daemon.start(env=os.environ | {"PATH": str(empty)})
    try:
        rootfs = busybox(tmp_path).source
        done = daemon.ctr("run", "--rm", "--rootfs", rootfs, "c", "/bin/true", check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "ctr: runtime 'runc' not found: no executable 'runc'\n"
        assert not daemon.ctr("containers", "ls", "-q").stdout
        assert not daemon.ctr("tasks", "ls", "-q").stdout
    finally:
        daemon.__exit__()
