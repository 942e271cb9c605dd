"""ctr against a real daemon, registry and runtime: every command, its tables, and its exit codes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from spec.api import tasks
from tests.containers import busybox
from tests.daemon import BIN, Daemon
from tests.registry import Registry, make_image

WAIT_S = 30.0
NAMESPACE = f"ctr-{os.getpid()}"  # cgroups bear its name: another run beside this one has another
SHELL = (
    "sh",
    "-c",
    'echo ready; while read -r line; do eval "$line"; done',
)  # one without a line editor


class Own(Daemon):
    """One that works in our namespace."""

    def ctr(self, *args, namespace=NAMESPACE, **options):
        return super().ctr(*args, namespace=namespace, **options)

    def client(self, namespace=NAMESPACE):
        return super().client(namespace)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A daemon that has pulled one image; its `ref` is the image's name."""
    directory = tmp_path_factory.mktemp("ctr")
    with Registry(directory / "registry") as registry, Own(directory) as daemon:
        make_image(directory, registry, "busybox:1", layers=[{"etc/extra": b"extra\n"}])
        daemon.ref = f"{registry.host}/busybox:1"
        daemon.pulled = daemon.ctr("images", "pull", "--plain-http", daemon.ref).stdout
        daemon.ctr("ns", "create", "listed")
        yield daemon


@pytest.fixture
def container(shared):
    """Make a container that runs `args`, detached; everything is removed after the test."""
    made = []

    def make(id, *args, flags=()):
        made.append(id)
        shared.ctr("run", "-d", *flags, shared.ref, id, *args)
        return id

    yield make
    for id in made:
        shared.ctr("tasks", "rm", "-f", id, check=False)
        shared.ctr("containers", "rm", id, check=False)


def run(shared, id, *args, flags=(), **options):
    """`ctr run --rm`, whatever its exit code."""
    return shared.ctr("run", "--rm", *flags, shared.ref, id, *args, check=False, **options)


def argv(shared, *args):
    return [BIN / "ctr", "--address", shared.address, "--namespace", NAMESPACE, *args]


def until(told, what):
    """Poll until `told()` is true."""
    deadline = time.monotonic() + WAIT_S
    while not told():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def nothing_left(shared, id):
    """No task, container or snapshot of that id."""
    return not any(id in shared.ctr(noun, "ls", "-q").stdout.split() for noun in ("tasks", "containers", "snapshots"))


def table(text):
    return [line.split() for line in text.splitlines()]


class Terminal:
    """ctr on a pseudo-terminal of ours."""

    def __init__(self, shared, *args, lines=24, columns=80):
        self.master, self.slave = pty.openpty()
        self.resize(lines, columns)
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            argv(shared, *args), stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True
        )

    def resize(self, lines, columns):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, pattern):
        """Read until the pattern has been printed since the last time; its match."""
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(pattern.encode(), self.output)):
            assert time.monotonic() < deadline, f"{pattern!r} is not in {self.output!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.output += os.read(self.master, 65536)
        self.output = self.output[found.end() :]
        return found

    def drain(self):
        """Read until ctr has ended."""
        while self.process.poll() is None:
            if select.select([self.master], [], [], 0.05)[0]:
                self.output += os.read(self.master, 65536)

    def restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def wait(self):
        return self.process.wait(WAIT_S)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


# The front.


def test_version_names_client_and_server(shared):
    out = shared.ctr("version").stdout
    assert re.fullmatch(
        r"Client:\n  Version:  (\S+)\n  Revision: .*\n  Python version: \S+\n\n"
        r"Server:\n  Version:  \1\n  Revision: .*\n  UUID: \S+\n",
        out,
    )
    told = json.loads(shared.ctr("version", "--json").stdout)
    assert told["client"]["version"] == told["server"]["version"]
    assert shared.ctr("--version").stdout == f"ctr {told['client']['version']}\n"


def test_no_daemon_is_an_error_that_names_the_address(tmp_path):
    for command in (["tasks", "ls"], ["version"]):
        done = subprocess.run(
            [BIN / "ctr", "--address", tmp_path / "none.sock", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert f"{tmp_path / 'none.sock'}: no such file or directory" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        (),
        ("tasks",),
        ("tasks", "nonsense"),
        ("run",),
        ("--nonsense",),
        ("run", "--no-such", "a", "b"),
        ("run", "--detac", "a", "b"),
        ("images", "ls", "--qui"),
    ],
)
def test_wrong_usage_is_two(shared, args):
    assert shared.ctr(*args, check=False).returncode == 2


@pytest.mark.parametrize("noun", ["containers", "c", "images", "i", "tasks", "t", "ns", "plugins", "run", "events"])
def test_help_of_every_noun(shared, noun):
    assert "usage: ctr" in shared.ctr(noun, "--help").stdout


def test_broken_pipe_is_quiet(shared):
    with subprocess.Popen(
        argv(shared, "content", "ls"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "command", [("plugins", "ls"), ("ns", "ls"), ("images", "ls"), ("content", "ls"), ("snapshots", "ls")]
)
def test_lists_as_table_json_and_names(shared, command):
    rows = shared.ctr(*command).stdout.splitlines()
    names = shared.ctr(*command, "-q").stdout.splitlines()
    records = json.loads(shared.ctr(*command, "--json").stdout)
    assert len(rows) - 1 == len(names) == len(records) > 0
    assert all(name in row for name, row in zip(names, rows[1:], strict=True))
    assert rows[0].isupper()


def test_tables_have_containerds_columns(shared, container):
    container("columns", "sleep", "100")
    for command, columns in {
        "plugins": "TYPE ID PLATFORMS STATUS",
        "containers": "CONTAINER IMAGE RUNTIME",
        "content": "DIGEST SIZE AGE LABELS",
        "images": "REF TYPE DIGEST SIZE PLATFORMS LABELS",
        "namespaces": "NAME LABELS",
        "snapshots": "KEY PARENT KIND",
        "tasks": "TASK PID STATUS",
    }.items():
        assert shared.ctr(command, "ls").stdout.splitlines()[0].split() == columns.split()
    assert table(shared.ctr("tasks", "ps", "columns").stdout)[0] == ["PID", "INFO"]


def test_plugins_in_detail_and_filtered(shared):
    assert "overlayfs" in shared.ctr("plugins", "ls", "-d").stdout
    assert shared.ctr("plugins", "ls", "-q", "id==overlayfs").stdout == "overlayfs\n"


def test_namespaces_are_made_labelled_and_removed(shared):
    shared.ctr("ns", "create", "second", "a=1")
    assert ["second", "a=1"] in table(shared.ctr("ns", "ls").stdout)
    shared.ctr("ns", "label", "second", "a=", "b=2")
    assert ["second", "b=2"] in table(shared.ctr("ns", "ls").stdout)
    assert shared.ctr("images", "ls", "-q", namespace="second").stdout == ""
    assert shared.ctr("ns", "create", "second", check=False).returncode == 1
    shared.ctr("ns", "rm", "second")
    assert "second" not in shared.ctr("ns", "ls", "-q").stdout
    assert shared.ctr("ns", "rm", "second", check=False).returncode == 1


# Images, content, snapshots.


def test_pull_tells_progress_and_can_be_quiet(shared):
    assert "complete" in shared.pulled
    assert shared.ctr("images", "pull", "-q", "--plain-http", shared.ref).stdout == ""


def test_pull_on_a_terminal_shows_bars(shared):
    with Terminal(shared, "images", "pull", "--plain-http", shared.ref, columns=120) as terminal:
        terminal.expect(re.escape(shared.ref[-20:]))
        terminal.drain()
        assert terminal.wait() == 0


def test_pull_of_what_is_not_there(shared):
    done = shared.ctr("images", "pull", "--plain-http", shared.ref.replace(":1", ":none"), check=False)
    assert done.returncode == 1
    assert "none" in done.stderr


def test_image_row(shared):
    (row,) = table(shared.ctr("images", "ls", f"name=={shared.ref}").stdout)[1:]
    assert row[0] == shared.ref
    assert row[1] == "application/vnd.oci.image.manifest.v1+json"
    assert re.fullmatch("sha256:[0-9a-f]{64}", row[2])
    assert "linux/" in " ".join(row)


def test_images_are_tagged_and_removed(shared):
    shared.ctr("images", "tag", shared.ref, "example.com/other:1", "example.com/other:2")
    assert shared.ctr("images", "ls", "-q", "name~=other").stdout.split() == [
        "example.com/other:1",
        "example.com/other:2",
    ]
    again = shared.ctr("images", "tag", shared.ref, "example.com/other:1", check=False)
    assert again.returncode == 1
    assert "example.com/other:1" in again.stderr
    shared.ctr("images", "tag", "--force", shared.ref, "example.com/other:1")
    assert shared.ctr("images", "tag", shared.ref, "No Reference", check=False).returncode == 1
    done = shared.ctr("images", "rm", "--sync", "none", "example.com/other:1", "example.com/other:2", check=False)
    assert done.returncode == 1
    assert "none" in done.stderr
    assert shared.ctr("images", "ls", "-q", "name~=other").stdout == ""


def test_content_is_what_its_digest_says(shared):
    digest = json.loads(shared.ctr("images", "ls", "--json").stdout)[0]["target"]["digest"]
    manifest = json.loads(shared.ctr("content", "get", digest).stdout)
    assert manifest["schemaVersion"] == 2
    layers = [layer["digest"] for layer in manifest["layers"]]
    listed = shared.ctr("content", "ls", "-q").stdout.split()
    assert set(layers) <= set(listed)
    both = shared.ctr("content", "get", *layers, text=False).stdout
    assert len(both) == sum(layer["size"] for layer in manifest["layers"])
    assert shared.ctr("content", "get", "sha256:" + "0" * 64, check=False).returncode == 1
    assert shared.ctr("content", "get", "nonsense", check=False).returncode == 1


def test_snapshots_as_a_tree(shared, container):
    container("leaf", "sleep", "100")
    lines = shared.ctr("snapshots", "tree").stdout.splitlines()
    assert lines[0].startswith("sha256:")
    assert [line for line in lines if line.endswith("\\_ leaf")]
    depths = [len(line) - len(line.lstrip()) for line in lines]
    assert depths[:4] == [0, 2, 4, 6]
    rows = table(shared.ctr("snapshots", "ls").stdout)
    (row,) = [row for row in rows if row[0] == "leaf"]
    assert row[2] == "Active"
    info = json.loads(shared.ctr("snapshots", "info", "leaf").stdout)
    assert info["parent"] == row[1]
    assert table(shared.ctr("snapshots", "usage", "-b", row[1]).stdout)[1][0] == row[1]
    refused = shared.ctr("snapshots", "rm", row[1], check=False)
    assert refused.returncode == 1
    assert row[1] in refused.stderr


# Running.


def test_the_exit_code_is_the_containers(shared):
    assert run(shared, "code", "sh", "-c", "exit 7").returncode == 7
    assert run(shared, "code", "true").returncode == 0
    assert nothing_left(shared, "code")


def test_streams_are_apart(shared):
    done = run(shared, "streams", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_standard_input_is_piped_through(shared):
    given = "".join(f"line {number}\n" for number in range(50_000))
    done = run(shared, "cat", "cat", stdin=None, input=given)
    assert (done.returncode, done.stdout) == (0, given)


def test_the_images_command_and_an_options_look_alike(shared):
    assert run(shared, "default", stdin=None, input="echo from sh\n").stdout == "from sh\n"
    assert run(shared, "dashes", "echo", "--rm", "-d", "--", "x").stdout == "--rm -d -- x\n"


@pytest.mark.parametrize(
    ("flags", "command", "printed"),
    [
        (("--env", "A=1", "--env", "B=two words"), "echo $A $B", "1 two words\n"),
        (("--cwd", "/tmp"), "pwd", "/tmp\n"),
        (("--user", "user"), "id -u; id -g; id -G", "1000\n1000\n1000 2000\n"),
        (("--user", "1:2000"), "id -u; id -g", "1\n2000\n"),
        (("--user", "4000:5000"), "id -u; id -g", "4000\n5000\n"),
        (("--hostname", "somewhere"), "hostname", "somewhere\n"),
        (("--read-only",), "touch /x 2>/dev/null || echo refused", "refused\n"),
        ((), "touch /x && echo written", "written\n"),
        (("--cap-drop", "ALL"), "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
        (("--annotation", "a=b", "--label", "c=d"), "echo fine", "fine\n"),
    ],
)
def test_flags_of_run(shared, flags, command, printed):
    done = run(shared, "flags", "sh", "-c", command, flags=flags)
    assert (done.stdout, done.stderr, done.returncode) == (printed, "", 0)


def test_a_user_the_image_does_not_know(shared):
    done = run(shared, "nobody", "true", flags=("--user", "stranger"))
    assert done.returncode == 1
    assert "stranger" in done.stderr
    assert nothing_left(shared, "nobody")


def test_env_file(shared, tmp_path):
    (tmp_path / "env").write_text("# a comment\nA=file\n\nB=file\n")
    done = run(shared, "env", "sh", "-c", "echo $A $B", flags=("--env-file", tmp_path / "env", "--env", "B=flag"))
    assert done.stdout == "file flag\n"
    missing = run(shared, "env", "true", flags=("--env-file", tmp_path / "none"))
    assert (missing.returncode, missing.stderr) == (1, f"ctr: {tmp_path / 'none'}: no such file or directory\n")


def test_binds_from_the_host(shared, tmp_path):
    (tmp_path / "file").write_text("the host's\n")
    bind = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:ro"
    done = run(
        shared, "bind", "sh", "-c", "cat /mnt/file; touch /mnt/x 2>/dev/null || echo ro", flags=("--mount", bind)
    )
    assert done.stdout == "the host's\nro\n"
    writable = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:rw"
    assert run(shared, "bind", "touch", "/mnt/x", flags=("--mount", writable)).returncode == 0
    assert (tmp_path / "x").exists()
    tmpfs = run(shared, "bind", "grep", "/scratch", "/proc/mounts", flags=("--mount", "type=tmpfs,src=t,dst=/scratch"))
    assert tmpfs.stdout.split()[:3] == ["t", "/scratch", "tmpfs"]
    assert run(shared, "bind", "true", flags=("--mount", "nonsense")).returncode == 1


def test_the_hosts_network(shared):
    own = run(shared, "net", "readlink", "/proc/self/ns/net").stdout.strip()
    assert own != os.readlink("/proc/self/ns/net")
    done = run(shared, "net", "sh", "-c", "readlink /proc/self/ns/net; cat /etc/hosts", flags=("--net-host",))
    network, _, hosts = done.stdout.partition("\n")
    assert network == os.readlink("/proc/self/ns/net")
    with open("/etc/hosts") as file:
        assert hosts == file.read()


def test_privileged_has_all_that_we_have(shared):
    done = run(shared, "priv", "grep", "CapEff", "/proc/self/status", flags=("--privileged",))
    with open("/proc/self/status") as status:
        held = next(line.split()[1] for line in status if line.startswith("CapBnd"))
    assert done.stdout.split() == ["CapEff:", held]


def test_limits(shared):
    flags = ("--memory-limit", "67108864", "--pids-limit", "64", "--cpus", "0.5", "--cpu-shares", "512")
    config = json.loads(run(shared, "limits", "true", flags=("--dump-config", *flags)).stdout)
    resources = config["linux"]["resources"]
    assert resources["memory"]["limit"] == 67108864
    assert resources["pids"]["limit"] == 64
    assert resources["cpu"] == {"shares": 512, "quota": 50000, "period": 100000}
    assert nothing_left(shared, "limits")
    assert run(shared, "limits", "true", flags=flags).returncode == 0


def test_null_io_prints_nothing(shared):
    done = run(shared, "null", "sh", "-c", "echo out; echo err >&2; exit 3", flags=("--null-io",))
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_log_uri(shared, tmp_path):
    log = tmp_path / "log"
    done = run(shared, "log", "sh", "-c", "echo out; echo err >&2", flags=("--log-uri", f"file://{log}"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert log.read_text() == "out\nerr\n"


def test_detached_runs_on(shared, container, tmp_path):
    container("back", "sleep", "100", flags=("--pid-file", tmp_path / "pid"))
    (row,) = [row for row in table(shared.ctr("tasks", "ls").stdout) if row[0] == "back"]
    assert row[1:] == [(tmp_path / "pid").read_text(), "RUNNING"]


def test_only_what_ends_with_its_container_is_never_synced(shared, container):
    look = ("grep", " / overlay ", "/proc/mounts")
    assert "volatile" in run(shared, "brief-lived", *look).stdout
    container("kept", "sleep", "100")
    assert "volatile" not in shared.ctr("tasks", "exec", "--exec-id", "look", "kept", *look).stdout


def test_rm_and_detach_exclude_one_another(shared):
    done = run(shared, "both", "true", flags=("-d",))
    assert done.returncode == 1
    assert "--rm" in done.stderr
    assert "--detach" in done.stderr
    assert nothing_left(shared, "both")


def test_an_id_that_is_taken(shared, container):
    container("taken", "sleep", "100")
    before = shared.ctr("containers", "info", "taken").stdout, shared.ctr("tasks", "ls").stdout
    done = run(shared, "taken", "true")
    assert done.returncode == 1
    assert "taken" in done.stderr
    assert (shared.ctr("containers", "info", "taken").stdout, shared.ctr("tasks", "ls").stdout) == before
    assert "taken" in shared.ctr("snapshots", "ls", "-q").stdout.split()


def test_an_image_that_is_missing(shared):
    done = shared.ctr("run", "--rm", "example.com/none:1", "missing", "true", check=False)
    assert done.returncode == 1
    assert "example.com/none:1" in done.stderr
    assert nothing_left(shared, "missing")


def test_an_image_that_is_not_unpacked_there(shared):
    done = run(shared, "native", "true", flags=("--snapshotter", "native"))
    assert done.returncode == 1
    assert "not unpacked into snapshotter native" in done.stderr
    assert nothing_left(shared, "native")


def test_a_program_that_is_not_there_leaves_nothing(shared):
    done = run(shared, "nothing", "/no/such/program")
    assert done.returncode == 1
    assert "/no/such/program" in done.stderr
    assert nothing_left(shared, "nothing")


def test_an_invalid_id(shared):
    done = run(shared, "no/id", "true")
    assert done.returncode == 1
    assert "no/id" in done.stderr


def test_a_directory_as_root(shared, tmp_path):
    root = busybox(tmp_path).source
    done = shared.ctr("run", "--rm", "--rootfs", root, "rooted", "sh", "-c", "echo fine > /tmp/told; echo $PATH")
    assert "/bin" in done.stdout
    assert (tmp_path / "rootfs/tmp/told").read_text() == "fine\n"
    assert nothing_left(shared, "rooted")


def test_a_config_as_it_is(shared, tmp_path):
    config = run(shared, "config", "echo", "from the config", flags=("--dump-config",)).stdout
    (tmp_path / "config.json").write_text(config)
    done = run(shared, "config", "echo", "ignored", flags=("--config", tmp_path / "config.json"))
    assert done.stdout == "from the config\n"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "TERM"), (signal.SIGINT, "INT"), (signal.SIGHUP, "HUP")])
def test_signals_are_forwarded(shared, number, name):
    script = f"trap 'echo got it; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        argv(shared, "run", "--rm", shared.ref, "signals", "sh", "-c", script), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "got it\n"
        assert process.wait(WAIT_S) == 9
    assert nothing_left(shared, "signals")


# Terminals.


def test_a_terminal(shared):
    with Terminal(shared, "run", "--rm", "-t", shared.ref, "tty", *SHELL, lines=31, columns=97) as terminal:
        terminal.type("echo ma''rk; stty size; tty\n")
        terminal.expect("mark\r\n31 97\r\n/dev/pts/0\r\n")
        terminal.resize(40, 101)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        terminal.type("while [ \"$(stty size)\" != '40 101' ]; do sleep 0.01; done; echo resi''zed\n")
        terminal.expect("resized\r\n")
        terminal.type("trap stop=1 INT; echo loo''ping; while [ ! $stop ]; do sleep 0.02; done; echo stop''ped\n")
        terminal.expect("looping\r\n")
        terminal.type("\x03")
        terminal.expect("stopped\r\n")
        terminal.type("echo still ali''ve\n")
        terminal.expect("still alive\r\n")
        assert not terminal.restored()
        terminal.type("exit 5\n")
        assert terminal.wait() == 5
        assert terminal.restored()
    assert nothing_left(shared, "tty")


def test_a_brief_program_on_a_terminal_prints_all(shared):
    for _ in range(3):
        with Terminal(shared, "run", "--rm", "-t", shared.ref, "brief", "seq", "2000") as terminal:
            terminal.expect("\r\n1999\r\n2000\r\n")
            assert terminal.wait() == 0


def test_a_terminal_fed_by_a_pipe(shared):
    lines = [f"line {number}" for number in range(5000)]
    given = "".join(f"{line}\n" for line in lines)
    done = run(shared, "fed", "sh", "-c", "stty -echo -onlcr; echo; cat", flags=("-t",), stdin=None, input=given)
    assert done.returncode == 0
    assert "line 4999" in done.stdout


def test_a_terminal_is_restored_when_ctr_is_told_to_end(shared):
    script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    with Terminal(shared, "run", "--rm", "-t", shared.ref, "told", "sh", "-c", script) as terminal:
        terminal.expect("ready")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 4
        assert terminal.restored()
    assert nothing_left(shared, "told")


def test_attach_to_a_detached_terminal(shared, container):
    container("att", *SHELL, flags=("-t",))
    with Terminal(shared, "tasks", "attach", "att") as terminal:
        terminal.type("echo he''re\n")
        terminal.expect("here\r\n")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert terminal.restored()
    with Terminal(shared, "tasks", "attach", "att") as terminal:
        terminal.type("echo aga''in; exit 6\n")
        terminal.expect("again\r\n")
        assert terminal.wait() == 6
    assert shared.ctr("tasks", "rm", "att", check=False).returncode == 6


@pytest.mark.parametrize("rm", [(), ("--rm",)])
def test_a_terminal_is_left_and_joined_again(shared, rm):
    keys = ("--detach-keys", "ctrl-p,ctrl-q")
    with Terminal(shared, "run", *rm, "-t", *keys, shared.ref, "left", *SHELL) as terminal:
        terminal.type("echo he''re\n")
        terminal.expect("here\r\n")
        terminal.type("\x10\x11")
        assert terminal.wait() == 0
        assert terminal.restored()
    with Terminal(shared, "tasks", "exec", "-t", *keys, "--exec-id", "e", "left", *SHELL) as terminal:
        terminal.type("echo al''so\n")
        terminal.expect("also\r\n")
        terminal.type("\x10\x11")
        assert terminal.wait() == 0
    for flags, code in ((("--exec-id", "e"), 7), ((), 8)):
        with Terminal(shared, "tasks", "attach", *flags, "left") as terminal:
            terminal.type("echo aga''in\n")
            terminal.expect("again\r\n")
            terminal.type("\x10\x11")
            assert terminal.wait() == 0
        with Terminal(shared, "tasks", "attach", *flags, "left") as terminal:
            terminal.type(f"exit {code}\n")
            assert terminal.wait() == code
    assert shared.ctr("tasks", "rm", "left", check=False).returncode == 8
    shared.ctr("containers", "rm", "left")
    assert nothing_left(shared, "left")


def test_keys_that_are_none(shared):
    done = shared.ctr("tasks", "attach", "--detach-keys", "nonsense", "x", check=False)
    assert done.returncode == 1
    assert "is no key" in done.stderr


def test_attach_without_a_terminal(shared, container):
    container("plain", "sleep", "100")
    done = shared.ctr("tasks", "attach", "plain", check=False)
    assert done.returncode == 1
    assert "terminal" in done.stderr


# Tasks.


def test_exec(shared, container):
    container("exec", "sleep", "100", flags=("--env", "A=1"))
    done = shared.ctr(
        "tasks", "exec", "--exec-id", "e", "--cwd", "/tmp", "exec", "sh", "-c", "pwd; echo $A; exit 4", check=False
    )
    assert (done.returncode, done.stdout) == (4, "/tmp\n1\n")
    piped = shared.ctr(
        "tasks", "exec", "--exec-id", "e", "--user", "user", "exec", "sh", "-c", "id -u; cat", stdin=None, input="in\n"
    )
    assert piped.stdout == "1000\nin\n"
    assert shared.ctr("tasks", "exec", "exec", "true", check=False).returncode == 2
    missing = shared.ctr("tasks", "exec", "--exec-id", "e", "exec", "/no/such/program", check=False)
    assert missing.returncode == 1
    assert "/no/such/program" in missing.stderr
    assert shared.ctr("tasks", "exec", "--exec-id", "e", "exec", "true").returncode == 0
    assert shared.ctr("tasks", "exec", "--exec-id", "e", "nowhere", "true", check=False).returncode == 1


def test_exec_on_a_terminal(shared, container):
    container("exect", "sleep", "100")
    with Terminal(shared, "tasks", "exec", "-t", "--exec-id", "e", "exect", *SHELL, lines=30, columns=90) as terminal:
        terminal.type("while [ \"$(stty size)\" != '30 90' ]; do sleep 0.01; done; echo si''zed; exit 3\n")
        terminal.expect("sized\r\n")
        assert terminal.wait() == 3
        assert terminal.restored()


def test_a_brief_exec_on_a_terminal_prints_all(shared, container):
    container("execb", "sleep", "100")
    for _ in range(5):
        with Terminal(shared, "tasks", "exec", "-t", "--exec-id", "e", "execb", "echo", "brief") as terminal:
            terminal.expect("brief\r\n")
            assert terminal.wait() == 0


def test_exec_detached_is_listed_killed_and_removed(shared, container):
    container("execd", "sleep", "100")
    shared.ctr("tasks", "exec", "-d", "--exec-id", "e", "execd", "sleep", "100")
    rows = table(shared.ctr("tasks", "ps", "execd").stdout)[1:]
    assert [info for _, info in rows] == ["-", "e"]
    assert len(json.loads(shared.ctr("tasks", "ps", "--json", "execd").stdout)) == 2
    again = shared.ctr("tasks", "exec", "-d", "--exec-id", "e", "execd", "true", check=False)
    assert again.returncode == 1
    assert "e" in again.stderr
    shared.ctr("tasks", "kill", "-s", "KILL", "--exec-id", "e", "execd")
    assert shared.ctr("tasks", "wait", "--exec-id", "e", "execd", check=False).returncode == 137
    assert shared.ctr("tasks", "rm", "--exec-id", "e", "execd", check=False).returncode == 137
    assert len(table(shared.ctr("tasks", "ps", "execd").stdout)) == 2


def test_create_then_start(shared):
    shared.ctr("containers", "create", shared.ref, "two", "sh", "-c", "echo started; exit 8")
    assert "two" not in shared.ctr("tasks", "ls", "-q").stdout.split()
    done = shared.ctr("tasks", "start", "two", check=False)
    assert (done.returncode, done.stdout) == (8, "started\n")
    again = shared.ctr("tasks", "start", "--null-io", "two", check=False)
    assert (again.returncode, again.stdout) == (8, "")
    shared.ctr("containers", "rm", "two")
    assert nothing_left(shared, "two")


def test_kill_wait_and_rm(shared, container):
    for id in ("one", "two"):
        container(id, "sh", "-c", "trap 'exit 11' TERM; while :; do sleep 0.05; done")
    refused = shared.ctr("containers", "rm", "one", check=False)
    assert refused.returncode == 1
    assert "running" in refused.stderr
    assert shared.ctr("tasks", "rm", "one", check=False).returncode == 1
    assert shared.ctr("tasks", "kill", "-s", "NOSUCH", "one", check=False).returncode == 1
    shared.ctr("tasks", "kill", "one")
    assert shared.ctr("tasks", "wait", "one", check=False).returncode in (11, 143)  # sh may not have set its trap
    assert shared.ctr("tasks", "kill", "one", check=False).returncode == 1
    assert shared.ctr("tasks", "rm", "one", check=False).returncode in (11, 143)
    assert shared.ctr("tasks", "rm", "-f", "none", "two", check=False).returncode == 1
    assert not {"one", "two"} & set(shared.ctr("tasks", "ls", "-q").stdout.split())


@pytest.mark.parametrize("command", [("tasks", "rm"), ("tasks", "rm", "-f"), ("containers", "rm")])
def test_a_task_that_was_never_started_can_be_removed(shared, command):
    shared.ctr("containers", "create", shared.ref, "made", "true")
    with shared.client() as client:
        client.tasks.create(tasks.CreateRequest(container_id="made"))
    assert ["CREATED"] in [row[2:] for row in table(shared.ctr("tasks", "ls").stdout) if row[0] == "made"]
    done = shared.ctr(*command, "made", check=False)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == (137 if command == ("tasks", "rm") else 0)  # created is killed
    shared.ctr("containers", "rm", "made", check=False)
    assert nothing_left(shared, "made")


def test_a_file_that_cannot_be_written_leaves_nothing(shared, tmp_path):
    none = tmp_path / "none" / "pid"
    done = run(shared, "pidless", "sleep", "100", flags=("--pid-file", none))
    assert (done.returncode, done.stderr) == (1, f"ctr: {none}: no such file or directory\n")
    assert nothing_left(shared, "pidless")


def test_the_images_stop_signal(shared, container):
    container(
        "stop",
        "sh",
        "-c",
        "trap 'exit 12' USR1; echo; while :; do sleep 0.05; done",
        flags=("--label", "io.containerd.image.config.stop-signal=SIGKILL"),
    )
    shared.ctr("tasks", "kill", "stop")
    assert shared.ctr("tasks", "wait", "stop", check=False).returncode == 137


def test_pause_and_resume(shared, container):
    container("pause", "sleep", "100")
    shared.ctr("tasks", "pause", "pause")
    assert ["PAUSED"] in [row[2:] for row in table(shared.ctr("tasks", "ls").stdout) if row[0] == "pause"]
    assert "paused" in shared.ctr("containers", "rm", "pause", check=False).stderr
    shared.ctr("tasks", "resume", "pause")
    assert ["RUNNING"] in [row[2:] for row in table(shared.ctr("tasks", "ls").stdout) if row[0] == "pause"]


# Containers.


def test_container_info_label_and_filters(shared):
    shared.ctr("containers", "create", "--label", "a=1", shared.ref, "info", "true")
    told = json.loads(shared.ctr("containers", "info", "info").stdout)
    assert (told["id"], told["image"], told["labels"]["a"]) == ("info", shared.ref, "1")
    assert told["spec"] == json.loads(shared.ctr("containers", "info", "--spec", "info").stdout)
    assert told["spec"]["process"]["args"] == ["true"]
    assert "b=2" in shared.ctr("containers", "label", "info", "a=", "b=2").stdout
    assert shared.ctr("containers", "ls", "-q", "labels.b==2").stdout == "info\n"
    assert shared.ctr("containers", "ls", "-q", "labels.a==1").stdout == ""
    assert json.loads(shared.ctr("containers", "ls", "--json").stdout)[0]["id"] == "info"
    bad = shared.ctr("containers", "ls", "((", check=False)
    assert bad.returncode == 1
    shared.ctr("containers", "rm", "--keep-snapshot", "info")
    assert "info" in shared.ctr("snapshots", "ls", "-q").stdout.split()
    shared.ctr("snapshots", "rm", "info")
    assert nothing_left(shared, "info")
    assert shared.ctr("containers", "info", "info", check=False).returncode == 1
    assert shared.ctr("containers", "rm", "info", check=False).returncode == 1


def test_several_are_removed_whatever_becomes_of_one(shared):
    for id in ("first", "last"):
        shared.ctr("containers", "create", shared.ref, id, "true")
    done = shared.ctr("containers", "rm", "first", "unknown", "last", check=False)
    assert done.returncode == 1
    assert "unknown" in done.stderr
    assert nothing_left(shared, "first")
    assert nothing_left(shared, "last")


def test_a_taken_id_keeps_its_snapshot(shared):
    shared.ctr("containers", "create", shared.ref, "kept", "true")
    assert shared.ctr("containers", "create", shared.ref, "kept", "true", check=False).returncode == 1
    assert "kept" in shared.ctr("snapshots", "ls", "-q").stdout.split()
    shared.ctr("containers", "rm", "kept")
    assert nothing_left(shared, "kept")


# Events.


@contextlib.contextmanager
def events(shared, *args):
    """`ctr events`, at work: what it prints is read line by line."""
    process = subprocess.Popen(
        argv(shared, "events", *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def seen(shared, process, sign):
    """Lines up to the one with `sign`, which a namespace of that name makes; made again until it shows."""
    lines = []
    deadline = time.monotonic() + WAIT_S
    while not any(sign in line for line in lines):
        assert time.monotonic() < deadline
        shared.ctr("ns", "create", sign)
        shared.ctr("ns", "rm", sign)
        while select.select([process.stdout], [], [], 0.2)[0]:
            lines.append(process.stdout.readline())
    return lines


def test_events_of_a_run_in_order(shared):
    with events(shared, "--json") as process:
        seen(shared, process, "opened")
        assert run(shared, "seen", "true").returncode == 0
        found = [json.loads(line) for line in seen(shared, process, "closed")]
    mine = [event for event in found if "seen" in event["event"].values()]
    assert [event["topic"] for event in mine] == [
        "/containers/create",
        "/snapshot/prepare",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
        "/containers/delete",
        "/snapshot/remove",
    ]
    assert {event["namespace"] for event in mine} == {NAMESPACE}
    assert [event["timestamp"] for event in mine] == sorted(event["timestamp"] for event in mine)


def test_events_filtered_as_text(shared):
    with events(shared, 'topic=="/namespaces/create"') as process:
        lines = seen(shared, process, "filtered")
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z \S* /namespaces/create \{.*\}\n", line) for line in lines
    )


def test_events_end_quietly_when_interrupted(shared):
    with events(shared) as process:
        seen(shared, process, "going")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, err) == (130, "")
