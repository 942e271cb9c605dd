"""The configuration of a running daemon: what it takes up, and what it has to be started anew for."""

import json
import os
import signal

import pytest

from spec import errors
from spec.api import snapshots
from spec.api.events import SubscribeRequest
from spec.api.introspection import PluginsRequest, ServerRequest
from tests.daemon import Daemon


def test_reload(tmp_path):
    with Daemon(tmp_path, 'default_snapshotter = "native"\n') as daemon, daemon.client() as client:

        def reload(text, said):
            daemon.config.write_text(text)
            daemon.process.send_signal(signal.SIGHUP)
            daemon.says(said)

        def default():
            return client.introspection.server(ServerRequest()).default_snapshotter

        assert default() == "native"
        reload("rot = 1\n", "the configuration stays as it was: configuration")
        assert default() == "native"
        reload('default_snapshotter = "overlayfs"\ndefault_runtime = "crun"\n', "needed for default_runtime")
        assert default() == "overlayfs"
        reload('default_snapshotter = "native"\nlog_format = "json"\n', '"msg":"read the configuration again"')
        assert default() == "native"


def test_a_required_plugin_that_does_not_work(tmp_path):
    with pytest.raises(RuntimeError, match=r"required_plugins: io\.holdd\.snapshotter\.v1\.aufs: "):
        Daemon(tmp_path, 'required_plugins = ["io.holdd.snapshotter.v1.aufs"]\n').start()


def test_disabled_plugins(tmp_path):
    text = 'disabled_plugins = ["io.holdd.snapshotter.v1.native", "io.holdd.service.v1.transfer"]\n'
    with Daemon(tmp_path, text) as daemon, daemon.client() as client:
        found = {row.id: (row.status, row.init_error) for row in client.introspection.plugins(PluginsRequest()).plugins}
        for id in ("native", "transfer"):
            assert found[id] == ("skip", "disabled by configuration")
        assert found["overlayfs"] == ("ok", "")
        assert found["archive"][0] == "ok"
        with pytest.raises(errors.InvalidArgument, match="native is unknown"):
            client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="native", key="a"))
        listed = daemon.ctr("plugins", "ls", "-d", "id==overlayfs").stdout
        assert "Requires:      io.holdd.metadata.v1" in listed


def test_defaults_by_label_of_the_namespace(tmp_path):
    with Daemon(tmp_path) as daemon:
        daemon.ctr("namespaces", "create", "a", "containerd.io/defaults/snapshotter=native")
        daemon.ctr("namespaces", "label", "a", "containerd.io/defaults/runtime=crun")
        daemon.ctr("snapshots", "prepare", "k", namespace="a")
        daemon.ctr("snapshots", "prepare", "k")
        for namespace, snapshotter in (("a", "native"), ("default", "overlayfs")):
            assert daemon.ctr("snapshots", "--snapshotter", snapshotter, "info", "k", namespace=namespace)
        info = json.loads(daemon.ctr("info", namespace="a").stdout)
        assert (info["default_snapshotter"], info["default_runtime"]) == ("native", "crun")
        assert json.loads(daemon.ctr("info").stdout)["default_runtime"] == "runc"
        listed = [row["id"] for row in json.loads(daemon.ctr("deprecations", "ls", "--json").stdout)]
        assert {row["id"] for row in info["deprecations"]} <= set(listed)
        v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        assert ("io.holdd.deprecation/cgroup-v1" in listed) != v2


def test_events_without_a_ring_are_kept_in_memory(tmp_path):
    with Daemon(tmp_path, 'disabled_plugins = ["io.holdd.ring.v1.local"]\n') as daemon:
        daemon.ctr("namespaces", "create", "a")
        with daemon.client() as client, client.events.subscribe(SubscribeRequest(since=0)) as stream:
            assert next(stream).sequence == 1
        assert not any((daemon.root / "events").iterdir())
