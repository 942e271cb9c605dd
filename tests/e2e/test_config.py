"""The configuration of a running daemon: what it takes up, and what it has to be started anew for."""

import signal

import pytest

from spec import errors
from spec.api import snapshots
from spec.api.introspection import PluginsRequest
from tests.daemon import Daemon


def test_reload(tmp_path):
    with Daemon(tmp_path, 'default_snapshotter = "native"\n') as daemon, daemon.client() as client:

        def reload(text, said):
            daemon.config.write_text(text)
            daemon.process.send_signal(signal.SIGHUP)
            daemon.says(said)

        def holds(snapshotter, key):
            return snapshots.StatRequest(snapshotter=snapshotter, key=key)

        client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="", key="a"))
        client.snapshots.stat(holds("native", "a"))
        reload("rot = 1\n", "the configuration stays as it was: configuration")
        client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="", key="b"))
        client.snapshots.stat(holds("native", "b"))
        reload('default_snapshotter = "overlayfs"\ndefault_runtime = "crun"\n', "needed for default_runtime")
        client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="", key="c"))
        client.snapshots.stat(holds("overlayfs", "c"))
        reload('default_snapshotter = "native"\nlog_format = "json"\n', '"msg":"read the configuration again"')
        client.snapshots.stat(holds("", "a"))


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
