"""README's "Install", typed on machines that have nothing: from the package, and from the archive; and what follows."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import cgroups, readme
from tests.machine import Machine, bootstrap
from tests.packaging import PACKAGING
from tests.registry import Registry, make_image

IMAGE = "registry.example.org/team/app:1.0"
NAMESPACE = "bare"  # its cgroup is this host's
# There is no systemd: what a unit does is done by hand.
START = "holdd & while ! ctr version; do sleep 0.1; done"
HAND = {"systemctl daemon-reload": "true", "systemctl enable --now holdd": START, "make dist": "true"}


# The same image in the same namespace of both, all directories and sockets as they are by default.
THEIRS = f"ctr.containerd -n {NAMESPACE}"
SIDE_BY_SIDE = (
    f"containerd >/dev/null 2>&1 & while ! {THEIRS} version; do sleep 0.1; done",
    f"{THEIRS} images import app.tar && {THEIRS} run -d {IMAGE} theirs sleep 1000",
    "test $(ctr tasks ls -q) = web && ctr tasks exec --exec-id a web true",
    f"test $({THEIRS} tasks ls -q) = theirs && {THEIRS} tasks exec --exec-id a theirs true",
    "kill -9 %1; wait %1 || true",
    START,
    f"{THEIRS} tasks ls | grep theirs.*RUNNING && ctr tasks ls | grep web.*RUNNING",
    f"ctr run --rm {IMAGE} b true && {THEIRS} run --rm {IMAGE} b true",
    f"{THEIRS} tasks kill -s 9 theirs && while ! {THEIRS} tasks rm theirs; do sleep 0.1; done",
    f"{THEIRS} containers rm theirs && {THEIRS} images rm --sync {IMAGE} && kill %2 && wait %2 || true",
    f"ctr tasks ls | grep web.*RUNNING && ctr content verify && ctr run --rm {IMAGE} b true",
)


@pytest.fixture(scope="module")
def parcel(dist, tmp_path_factory):
    """A directory to be a machine's /root: dist/ as `make dist` fills it, and an image in a file."""
    directory = tmp_path_factory.mktemp("parcel")
    for verb in ("archive", "deb"):
        argv = [sys.executable, PACKAGING / "dist.py", "--binaries", dist, verb, directory / "dist"]
        subprocess.run(argv, check=True, capture_output=True)
    with Registry(directory / "registry") as registry:
        make_image(directory, registry, "team/app:1.0")
        argv = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "-q"]
        source, target = f"docker://{registry.host}/team/app:1.0", f"oci-archive:{directory}/app.tar:{IMAGE}"
        subprocess.run([*argv, source, target], check=True, capture_output=True)
    return directory


@pytest.fixture
def machine(request, parcel, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    made = Machine(bootstrap(request.param, directory / "base"), directory / "machine")
    for name in ("dist", "app.tar"):
        subprocess.run(["cp", "-r", parcel / name, made.root / "root"], check=True)
    yield made
    cgroups.remove(NAMESPACE)


def typed(number):
    """The commands of one of the section's blocks, as they are meant here."""
    blocks = [block for block in readme.blocks() if block.section == "Install"]
    assert len(blocks) == 2
    return [HAND.get(line, line) for line in blocks[number].commands()]


def script(*lines):
    return "\n".join(["set -ex", "cd", "export HOLDD_NAMESPACE=" + NAMESPACE, *lines])


RUN = (
    "ctr images import app.tar",
    f'test "$(ctr run --rm {IMAGE} hello echo hello)" = hello',
    f"ctr run -d {IMAGE} web sleep 1000",
)
REFUSED = f'if {{}} >said 2>&1; then exit 1; fi; grep "not removed, for these containers run: {NAMESPACE}/web" said'


@pytest.mark.parametrize("machine", ["bookworm"], indirect=True)
def test_from_the_package(machine):
    make, install, version = typed(0)
    assert (make, version) == ("true", "ctr version")
    machine.run(script(
        "apt-get update -q",
        install,
        "holdd config check && test -f /etc/holdd/config.toml && command -v runc",
        START,
        version,
        *RUN,
        # Nothing of it goes while a container runs, and an upgrade leaves it alone.
        REFUSED.format("apt-get remove -y holdd"),
        "ctr tasks ls | grep web.*RUNNING",
        "dpkg -i dist/*.deb && ctr tasks ls | grep web.*RUNNING && dpkg --verify holdd",
        # containerd has a ctr, too.
        "apt-get install -y -q --no-install-recommends containerd",
        "ctr version | grep UUID && ctr.containerd --version | grep containerd",
        *SIDE_BY_SIDE,
        "ctr tasks rm --force web && kill %3 && wait %3",
        "apt-get remove -y holdd",
        "ctr --version | grep containerd",
        "! test -e /usr/bin/holdd && test -f /etc/holdd/config.toml",
        "dpkg --purge holdd && ! test -e /etc/holdd && test -d /var/lib/holdd",
        "apt-get remove -y containerd && dpkg -i dist/*.deb && ctr --version",
    ))  # fmt: skip


@pytest.mark.parametrize("machine", ["trixie"], indirect=True)
def test_from_the_archive(machine):
    """On another release, of another C library."""
    *install, start, version, uninstall = typed(1)
    assert (start, version) == (START, "ctr version")
    said = machine.run(script(
        "apt-get update -q && apt-get install -y -q --no-install-recommends runc",
        *install,
        start,
        version,
        "(cd /usr/local && sha256sum --quiet -c share/doc/holdd/SHA256SUMS)",
        *RUN,
        REFUSED.format(uninstall),
        "kill %1 && wait %1",
        REFUSED.format(uninstall),
        START,
        "ctr tasks ls | grep web.*RUNNING",
        "ctr tasks rm --force web && kill %2 && wait %2",
        uninstall,
        "find /usr/local -type f",
    ))  # fmt: skip
    assert said.endswith("+ find /usr/local -type f\n")
    assert not list(Path(machine.root, "usr/local").rglob("holdd*"))
