"""The command lines of OCI runtimes, which runtime is meant, and what it says."""

import os

import msgspec
import pytest

from daemon.runtime.oci import Commands, Launch, RuntimeConfig, settle
from spec import errors
from spec.records import CheckpointOptions, RuntimeOptions, RuntimeRef

PLAIN = Launch(name="runc", path="/usr/sbin/runc", root="/run/r/ns")
GLOBAL = ["/usr/sbin/runc", "--root", "/run/r/ns", "--log", "/l", "--log-format", "json"]


def test_argv_of_each_call():
    commands = Commands(PLAIN, "c1")
    assert commands.create("/l", "/b", "/p") == [*GLOBAL, "create", "--bundle", "/b", "--pid-file", "/p", "c1"]
    assert commands.create("/l", "/b", "/p", "/s")[-3:] == ["--console-socket", "/s", "c1"]
    assert commands.start("/l") == [*GLOBAL, "start", "c1"]
    exec_argv = [*GLOBAL, "exec", "--process", "/j", "--pid-file", "/p", "--detach"]
    assert commands.exec("/l", "/j", "/p") == [*exec_argv, "c1"]
    assert commands.exec("/l", "/j", "/p", "/s") == [*exec_argv, "--console-socket", "/s", "c1"]
    assert commands.kill("/l", 15) == [*GLOBAL, "kill", "c1", "15"]
    assert commands.kill("/l", 9, all_processes=True) == [*GLOBAL, "kill", "--all", "c1", "9"]
    assert commands.pause("/l") == [*GLOBAL, "pause", "c1"]
    assert commands.resume("/l") == [*GLOBAL, "resume", "c1"]
    assert commands.update("/l", "/r") == [*GLOBAL, "update", "--resources", "/r", "c1"]
    assert commands.delete("/l") == [*GLOBAL, "delete", "c1"]
    assert commands.delete("/l", force=True) == [*GLOBAL, "delete", "--force", "c1"]
    assert commands.state("/l") == [*GLOBAL, "state", "c1"]


def test_argv_with_options():
    launch = msgspec.structs.replace(
        PLAIN, args=("--platform=ptrace",), systemd_cgroup=True, no_pivot=True, no_new_keyring=True
    )
    commands = Commands(launch, "c1")
    start = ["/usr/sbin/runc", "--platform=ptrace", *GLOBAL[1:], "--systemd-cgroup", "start", "c1"]
    assert commands.start("/l") == start
    assert commands.create("/l", "/b", "/p")[-3:] == ["--no-pivot", "--no-new-keyring", "c1"]


def test_what_is_in_the_environment():
    assert [variable.partition("=")[0] for variable in PLAIN.environment] == ["PATH", "GOMAXPROCS"]
    crun = msgspec.structs.replace(PLAIN, path="/usr/bin/crun")  # whatever it is called in the configuration
    assert [variable.partition("=")[0] for variable in crun.environment] == ["PATH"]


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "runtime"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def options(**fields):
    return msgspec.Raw(msgspec.msgpack.encode(RuntimeOptions(**fields)))


def test_which_runtime_is_meant(program):
    runtimes = {"runc": RuntimeConfig(path=program), "mine": RuntimeConfig(path=program, root="/mine", no_pivot=True)}

    def settled(name, **fields):
        return settle(RuntimeRef(name=name, options=options(**fields)), runtimes, "/run/r", "ns")

    assert settled("runc") == Launch(name="runc", path=program, root="/run/r/ns")
    assert settled("io.containerd.runc.v2").path == program
    assert settled(program) == Launch(name=program, path=program, root="/run/r/ns")
    assert settled("mine") == Launch(name="mine", path=program, root="/mine/ns", no_pivot=True)
    assert settled("mine", root="/own", systemd_cgroup=True) == Launch(
        name="mine", path=program, root="/own/ns", no_pivot=True, systemd_cgroup=True
    )
    assert settled("runc", binary_name=program, no_pivot_root=True, no_new_keyring=True) == Launch(
        name="runc", path=program, root="/run/r/ns", no_pivot=True, no_new_keyring=True
    )
    assert settle(RuntimeRef(name="runc"), runtimes, "/run/r", "ns").path == program


def test_a_program_in_path_needs_no_configuration(program, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(program))
    for name in ("runtime", "io.containerd.runtime.v1"):
        assert settle(RuntimeRef(name=name), {}, "/run/r", "ns") == Launch(name=name, path=program, root="/run/r/ns")
    configured = {"runtime": RuntimeConfig(path="/bin/true")}
    assert settle(RuntimeRef(name="runtime"), configured, "/run/r", "ns").path == "/bin/true"


@pytest.mark.parametrize("name", ["other", "io.containerd.other.v2", "/no/such/runtime", "../runc", "gone", ""])
def test_runtimes_that_are_not_there(name):
    with pytest.raises(errors.NotFound, match="not found"):
        settle(RuntimeRef(name=name), {"gone": RuntimeConfig(path="no-such-program")}, "/run/r", "ns")


@pytest.fixture
def own(tmp_path):
    """Settles with a container's own file of options."""

    def settled(text, **fields):
        path = tmp_path / "own.toml"
        path.write_bytes(text)
        ref = RuntimeRef(name="mine", options=options(config_path=str(path), **fields))
        return settle(ref, {"mine": RuntimeConfig(path="/bin/true", root="/mine", args=("-a",))}, "/run/r", "ns")

    return settled


def test_a_file_of_options_goes_before_the_configuration(own):
    assert own(b"").args == ("-a",)
    launch = own(b'path = "/bin/false"\nargs = ["-b"]\ntimeout_s = 2.5\nsystemd_cgroup = true\n', root="/own")
    assert launch == Launch(
        name="mine", path="/bin/false", root="/own/ns", args=("-b",), timeout_s=2.5, systemd_cgroup=True
    )


@pytest.mark.parametrize(
    "text", [b"\xff", b"[", b"rot = 1", b"path = 1", b"timeout_s = 0", b"[path]", b'args = "a"', b"#" * 70000]
)
def test_files_of_options_that_are_none(own, text):
    with pytest.raises(errors.InvalidArgument, match=r"own\.toml"):
        own(text)


def test_files_of_options_that_cannot_be_read(tmp_path):
    def settled(path):
        return settle(RuntimeRef(name="/bin/true", options=options(config_path=str(path))), {}, "/run/r", "ns")

    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.NotFound, match="absent"):
        settled(tmp_path / "absent")
    with pytest.raises(errors.InvalidArgument, match="not a regular file"):
        settled(tmp_path / "fifo")
    with pytest.raises(errors.Error, match=str(tmp_path)):
        settled(tmp_path)
    with pytest.raises(errors.InvalidArgument, match="not an absolute path"):
        settled("own.toml")


@pytest.mark.parametrize("raw", [b"\xc1", b"\x01", b"\x81\xa4root\x01", b"\x81\xa4root\xa1\xff"])
def test_options_that_are_none(raw, program):
    with pytest.raises(errors.InvalidArgument, match="options"):
        settle(RuntimeRef(name="runc", options=msgspec.Raw(raw)), {"runc": RuntimeConfig(path=program)}, "/r", "ns")


def test_a_checkpoint_with_all_options():
    flags = {"open_tcp": True, "external_unix_sockets": True, "terminal": True, "file_locks": True}
    options = CheckpointOptions(
        image_path="/i", empty_namespaces=("network", "uts"), cgroups_mode="soft", parent_path="/p", **flags
    )
    expected = (
        "checkpoint --image-path /i --work-path /w --leave-running --tcp-established --ext-unix-sk --shell-job "
        "--file-locks --empty-ns network --empty-ns uts --manage-cgroups-mode soft --parent-path /p c1"
    )
    assert Commands(PLAIN, "c1").checkpoint("/l", "/w", options) == [*GLOBAL, *expected.split()]
