"""On a host without any libc, with a /tmp that cannot be written to, or one that nothing may be executed on."""

import subprocess

import pytest

from tests.daemon import Daemon
from tests.frozen.elsewhere import Elsewhere
from tests.frozen.image import archive_of

pytestmark = pytest.mark.root


@pytest.fixture
def archive(tmp_path):
    """An image of busybox, as a tar."""
    return archive_of(tmp_path, "one:1")


def test_without_a_libc(dist, archive, tmp_path):
    with Elsewhere(tmp_path, dist) as there:
        assert there.ctr("version").stdout.count("Version:") == 2
        (there.root / "tmp/one.tar").write_bytes(archive.read_bytes())
        there.ctr("images", "import", "/tmp/one.tar")
        assert there.ctr("images", "ls", "-q").stdout.split() == ["one:1"]
        assert there.ctr("content", "verify").returncode == 0
        failed = there.ctr("run", "--rm", "one:1", "c", "true", check=False)
        assert failed.returncode == 1
        assert "runc" in failed.stderr
        assert there.files() == ["/ctr", "/dev/null", "/holdd", "/tmp/holdd.sock", "/tmp/one.tar"]


def test_containers_with_a_runtime_alone(dist, archive, tmp_path):
    with Elsewhere(tmp_path, dist, ["/usr/sbin/runc"]) as there:
        (there.root / "tmp/one.tar").write_bytes(archive.read_bytes())
        there.ctr("images", "import", "/tmp/one.tar")
        assert there.ctr("run", "--rm", "one:1", "c", "echo", "out").stdout == "out\n"
        there.ctr("run", "-d", "one:1", "d", "sleep", "1000")
        there.ctr("tasks", "exec", "--exec-id", "e", "d", "true")
        there.ctr("tasks", "rm", "--force", "d")


@pytest.mark.parametrize("options", ["ro", "noexec"])
def test_with_such_a_tmp(dist, tmp_path, options):
    """Nothing is unpacked, so it does not matter."""
    script = f'mount -t tmpfs -o {options} tmpfs /tmp && exec "$@"'
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", "/proc/self/fd/3", "--version"]
    for name in ("holdd", "ctr"):
        with open(dist / name, "rb") as binary:
            done = subprocess.run(
                ["sh", "-c", 'exec "$@" 3<&0', "sh", *argv], stdin=binary, capture_output=True, text=True, check=True
            )
        assert done.stdout.startswith(name)


def test_hosts_are_found_though_the_system_would_ask_others(dist, tmp_path):
    """The C library's services for names are shared objects of the host, which are passed over."""
    (tmp_path / "nsswitch.conf").write_text("hosts: mymachines mdns4_minimal resolve [!UNAVAIL=return] files\n")
    (tmp_path / "hosts").write_text("127.0.0.1 registry.test\n")
    script = f'for name in hosts nsswitch.conf; do mount --bind {tmp_path}/$name /etc/$name; done && exec "$@"'
    under = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"]
    with Daemon(tmp_path, binaries=dist) as daemon:
        daemon.stop()
        daemon.start(under)
        done = daemon.ctr("images", "pull", "--plain-http", "registry.test:1/one:1", check=False)
    assert done.returncode == 1
    assert "refused" in done.stderr


def test_a_full_disk_is_told(dist):
    with open("/dev/full", "w") as full:
        done = subprocess.run([dist / "ctr", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (120, "output: No space left on device\n")
