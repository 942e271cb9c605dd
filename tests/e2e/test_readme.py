"""README.md does what it says: every command of it is executed, every configuration read, as they stand there.

Those of "Install" are for a bare machine (test_bare_machine.py).
"""

import contextlib
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon import config
from daemon.images import hosts
from tests import readme
from tests.daemon import BIN, Daemon, passable
from tests.packaging import manual
from tests.registry import Registry, make_image

ROOT = Path(__file__).parents[2]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DEVICE = (
    '{"cdiVersion": "0.6.0", "kind": "vendor.com/class", '
    '"devices": [{"name": "name", "containerEdits": {"env": ["A=b"]}}]}'
)
PATIENCE_S = 60

# Done elsewhere: what builds and tests, and what the fixture does itself.
ELSEWHERE = (
    "make demo", "make test", "make test-vm", "make test-frozen", "make build", ".venv/bin/holdd &",
    "export PATH=$PWD/.venv/bin:$PATH",
)  # fmt: skip
# What a command takes for granted, before it.
BEFORE = {
    "ctr snapshots diff web": "ctr run -d IMAGE web sleep 1000",
    "ctr content why": "ctr tasks rm --force web; ctr containers rm web",
}
ENDLESS = ("ctr tasks top", "ctr events", "ctr events --json --since 0", "holdd --root")
OFFLINE = ("holdd fsck --rebuild",)


@pytest.fixture
def daemon():
    with passable() as directory, Daemon(directory) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        make_image(registry.directory, registry, "team/app:1.0")
        yield registry


class Reader:
    """Someone who types what README.md says, in `directory`, on a host whose daemon is `daemon`."""

    def __init__(self, daemon, registry, directory):
        self._daemon = daemon
        self._image = f"{registry.host}/team/app:1.0"
        self._directory = directory
        self._env = os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOLDD_ADDRESS": daemon.address,
            "HOME": str(directory),
        }
        self._running = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._running.close()

    def types(self, line):
        if line in ELSEWHERE:
            assert not line.startswith("make") or self.sh(f"make -C {ROOT} -n {line.split()[1]}")
            return
        for start, before in BEFORE.items():
            if line.startswith(start):
                self.sh(self._meant(before))
        meant = self._meant(line)
        if line.startswith(ENDLESS):
            self._watch(meant, until_told="events" in line)
        elif " -t " in line:
            self._at_a_terminal(meant)
        elif line in OFFLINE:
            self._daemon.stop()
            self.sh(meant)
            self._daemon.start()
        else:
            self.sh(meant)

    def sh(self, line):
        options = {"cwd": self._directory, "env": self._env, "stdin": subprocess.DEVNULL, "timeout": PATIENCE_S}
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _meant(self, line):
        """With the names of this host."""
        line = line.replace("registry.example.org/team/app:1.0", self._image).replace("IMAGE", self._image)
        line = re.sub(r"(?<![\w.])/(srv|mnt)\b", rf"{self._directory}/\1", line)
        line = line.replace("holdd fsck", f"holdd fsck --root {self._daemon.root}")
        line = line.replace("holdd backup", f"holdd backup --root {self._daemon.root}")
        if "sha256:..." in line:
            line = line.replace("sha256:...", DIGEST.search(self.sh("ctr content ls -q"))[0])
        if "vendor.com/class=name" in line:
            cdi = f"mkdir -p /etc/cdi && mount -t tmpfs none /etc/cdi && echo {shlex.quote(DEVICE)} >/etc/cdi/a.json"
            line = f"unshare -m --propagation private sh -c {shlex.quote(f'{cdi} && {line}')}"
        return line

    def _watch(self, line, until_told):
        """One that ends when it is interrupted: until it has said something; a daemon, for as long as we are here."""
        argv = ["bash", "-c", f"exec {line}"]
        options = {"cwd": self._directory, "env": self._env, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, **options))
            stack.callback(process.send_signal, signal.SIGINT)
            deadline, said = time.monotonic() + PATIENCE_S, b""
            while not (b"serving at" in said if line.startswith("holdd") else said):
                assert time.monotonic() < deadline, line
                assert process.poll() is None, f"{line}: {process.returncode}\n{process.stdout.read()}"
                if until_told:
                    self.sh("ctr namespaces create told; ctr namespaces rm told")
                if select.select([process.stdout], [], [], 0.2)[0]:
                    said += os.read(process.stdout.fileno(), 65536)
            if line.startswith("holdd"):
                self._running.push(stack.pop_all())

    def _at_a_terminal(self, line):
        """Someone sees a prompt, and leaves."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self._directory)
            os.execvpe("bash", ["bash", "-c", line], self._env)
        deadline, said = time.monotonic() + PATIENCE_S, b""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.2)[0]:
                    more = os.read(terminal, 65536)
                    said += more
                    if b"# " in more:
                        os.write(terminal, b"exit\n")
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, f"{line}: {said!r}"


def test_every_command(daemon, registry, tmp_path):
    place = tmp_path / "reader"
    for name in ("", "srv", "mnt"):
        (place / name).mkdir()
    layout = f"oci-archive:{place}/app.tar:{registry.host}/team/other:1.0"
    argv = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "-q"]
    subprocess.run([*argv, f"docker://{registry.host}/team/app:1.0", layout], check=True, capture_output=True)
    with Reader(daemon, registry, place) as reader:
        for block in readme.blocks():
            if block.kind == "commands" and block.section != "Install":
                for line in block.commands():
                    reader.types(line)


def test_every_configuration(tmp_path):
    found = [block.text for block in readme.blocks() if block.kind == "toml"]
    assert found
    for text in found:
        (tmp_path / "config.toml").write_text(text)
        loaded = config.load(str(tmp_path / "config.toml"), {})
        assert config.changed(config.Config(), loaded), text


def test_every_configuration_of_a_registry(tmp_path):
    (block,) = [block for block in readme.blocks() if block.kind == "hosts"]
    folder = tmp_path / "docker.io"
    folder.mkdir()
    (folder / "hosts.toml").write_text(block.text)
    (folder / "ca.pem").write_text("")
    mirror, server = hosts.lookup("docker.io", str(tmp_path))
    assert (mirror.name, server.name) == ("mirror.example.org", "registry-1.docker.io")


def test_every_program(daemon):
    for block in readme.blocks():
        if block.kind == "python":
            code = block.text.replace("/run/holdd/holdd.sock", daemon.address)
            subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S, cwd=ROOT)


def test_every_command_within_a_sentence_is_one():
    """Its verbs and flags are there."""
    for line in readme.inline():
        program, *words = shlex.split(re.sub(r"\[.*?\]", "", line))
        level = {"ctr": manual().ctr, "holdd": manual().holdd}[program]()
        for word in words:
            if word.startswith("-"):
                assert any(word in flag.names for flag in level.flags), line
            elif level.commands:
                (level,) = [inner for inner in level.commands if word in inner.names]
