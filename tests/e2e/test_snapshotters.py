"""Snapshotters and content stores that are not the default ones, from the pull to the container: on a filesystem of
their own, in a process of their own."""

import pytest

from spec.api import introspection
from tests.daemon import Daemon
from tests.disks import MIB, disk
from tests.proxied import Proxied, ProxiedContent, ProxiedDiffer
from tests.registry import Registry, make_image

CONFIG = """
[proxy_plugins.other]
type = "snapshot"
address = "{address}"
platform = "linux/amd64"
exports = {{ root = "/elsewhere" }}
capabilities = ["rebase"]
"""


@pytest.fixture
def reference(tmp_path):
    with Registry(tmp_path / "registry") as registry:
        make_image(tmp_path, registry, "team/app:1", layers=[{"etc/two": b"2"}, {"etc/three": b"3"}])
        yield f"{registry.host}/team/app:1"


@pytest.fixture
def proxied(tmp_path):
    with Proxied(tmp_path) as proxied:
        yield proxied


@pytest.fixture
def daemon(tmp_path, proxied):
    with Daemon(tmp_path, CONFIG.format(address=proxied.address)) as daemon:
        yield daemon


def plugins(daemon, id):
    with daemon.client() as client:
        return client.introspection.plugins(introspection.PluginsRequest(filters=[f"id=={id}"])).plugins


def pull_and_run(daemon, reference, snapshotter):
    daemon.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter, reference)
    run = ("run", "--rm", "--snapshotter", snapshotter, reference, "c")
    assert daemon.ctr(*run, "cat", "/etc/two", "/etc/three").stdout == "23"
    assert daemon.ctr(*run, "sh", "-c", "echo new >/etc/two; cat /etc/two").stdout == "new\n"
    assert daemon.ctr(*run, "cat", "/etc/two").stdout == "2"


def test_another_process(daemon, proxied, reference, tmp_path):
    (info,) = plugins(daemon, "other")
    assert (info.status, info.capabilities, info.platforms) == ("ok", ["rebase"], ["linux/amd64"])
    assert info.exports == {"root": "/elsewhere", "address": proxied.address}
    pull_and_run(daemon, reference, "other")
    assert any((tmp_path / "proxied/overlayfs/snapshots").iterdir())
    assert not any((daemon.root / "snapshots/overlayfs/snapshots").iterdir())
    kept = daemon.ctr("snapshots", "--snapshotter", "other", "ls").stdout

    proxied.kill()
    for argv in (
        ("snapshots", "--snapshotter", "other", "ls"),
        ("run", "--rm", "--snapshotter", "other", reference, "c", "true"),
        ("namespaces", "rm", "default"),
    ):
        done = daemon.ctr(*argv, check=False)
        assert done.returncode != 0
        assert "proxy plugin other: connecting to" in done.stderr
    assert daemon.ctr("snapshots", "ls").returncode == 0  # ours is as it was
    proxied.start()
    assert daemon.ctr("snapshots", "--snapshotter", "other", "ls").stdout == kept
    pull_and_run(daemon, reference, "other")


def test_a_daemon_starts_without_it_and_finds_it_later(proxied, daemon, reference):
    daemon.stop()
    proxied.kill()
    daemon.start()
    (info,) = plugins(daemon, "other")
    assert info.status == "ok"
    proxied.start()
    pull_and_run(daemon, reference, "other")


def test_a_content_store_in_another_process(tmp_path, reference):
    config = '[proxy_plugins.blobs]\ntype = "content"\naddress = "{}"\n'
    with ProxiedContent(tmp_path) as proxied, Daemon(tmp_path, config.format(proxied.address)) as daemon:
        pull_and_run(daemon, reference, "overlayfs")
        assert not (daemon.root / "content").exists()
        listed = daemon.ctr("content", "ls", "-q").stdout.splitlines()
        files = {f"sha256:{path.name}": path for path in (tmp_path / "proxied/blobs/sha256").iterdir()}
        assert sorted(listed) == sorted(files)
        digest = listed[0]
        assert daemon.ctr("content", "get", digest, text=False).stdout == files[digest].read_bytes()
        proxied.kill()
        done = daemon.ctr("content", "get", digest, check=False)
        assert "proxy plugin blobs: connecting to" in done.stderr
        proxied.start()
        assert daemon.ctr("content", "get", digest, text=False).stdout == files[digest].read_bytes()


def test_a_differ_in_another_process(tmp_path, reference):
    """It comes before holdd's own, for layers of pulls too, and while it is away nobody takes its place."""
    config = """
[diff]
differs = ["mine", "walking"]
[proxy_plugins.mine]
type = "diff"
address = "{}/proxy.sock"
"""
    daemon = Daemon(tmp_path, config.format(tmp_path))
    with daemon, ProxiedDiffer(tmp_path, daemon.address) as proxied:
        (info,) = plugins(daemon, "mine")
        assert (info.type, info.status) == ("io.holdd.differ.v1", "ok")
        pull_and_run(daemon, reference, "overlayfs")
        layers = [line.split()[2] for line in proxied.said() if line.startswith("apply default ")]
        assert len(set(layers)) == len(layers) >= 3
        assert "sync" in proxied.said()
        parent = daemon.ctr("snapshots", "ls", "-q").stdout.split()[-1]
        daemon.ctr("snapshots", "prepare", "work", parent)
        daemon.ctr("snapshots", "diff", "work", text=False)
        daemon.ctr("snapshots", "rm", "work")  # which may be on the highest of the layers, and would hold them all
        assert any(line.startswith("compare default sha256:") for line in proxied.said())
        daemon.ctr("images", "rm", "--sync", reference)
        proxied.kill()
        done = daemon.ctr("images", "pull", "--plain-http", reference, check=False)
        assert "proxy plugin mine: connecting to" in done.stderr


def test_a_name_that_is_taken(tmp_path):
    daemon = Daemon(tmp_path, CONFIG.format(address="/nowhere").replace("other", "native"))
    with pytest.raises(RuntimeError, match=r"snapshotter\.v1\.native is there already"):
        daemon.start()


def test_btrfs(tmp_path, reference):
    with disk(tmp_path, "btrfs", 512 * MIB) as path:
        (tmp_path / "daemon").mkdir()
        with Daemon(tmp_path / "daemon", f'[snapshotter.btrfs]\nroot_path = "{path}/snapshots"\n') as daemon:
            pull_and_run(daemon, reference, "btrfs")
            usage = daemon.ctr("snapshots", "--snapshotter", "btrfs", "usage").stdout
            assert len(usage.splitlines()) > 2


def test_what_this_host_does_not_offer_is_skipped(daemon):
    """The root of the test is on no btrfs."""
    (info,) = plugins(daemon, "btrfs")
    assert info.status == "skip"
    assert info.init_error.endswith("it is on no btrfs")
