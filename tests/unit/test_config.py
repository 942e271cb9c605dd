"""The configuration: absent is fine, wrong is an error that names the file and the key."""

import pytest

from daemon import config
from spec import errors


def load(tmp_path, text, **overrides):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return config.load(str(path), overrides)


def test_an_absent_file_means_defaults(tmp_path):
    assert config.load(str(tmp_path / "nosuch"), {}) == config.Config()


def test_what_the_command_line_gives_wins(tmp_path):
    settings = load(tmp_path, 'root = "/a"\nstate = "/b"\n', root="/c", log_level=None)
    assert (settings.root, settings.state) == ("/c", "/b")


def test_the_socket_follows_the_state(tmp_path):
    assert load(tmp_path, "", state="/x").address == "/x/holdd.sock"
    assert load(tmp_path, "", state="/x", address="/y.sock").address == "/y.sock"


def test_runtimes(tmp_path):
    settings = load(tmp_path, '[runtimes.runsc]\npath = "/usr/bin/runsc"\nargs = ["--platform=ptrace"]\n')
    assert settings.runtimes["runsc"].args == ("--platform=ptrace",)


def test_snapshotters(tmp_path):
    overlay = '[snapshotter.overlayfs]\nroot_path = "/a"\nmount_options = ["volatile"]\n'
    text = f"{overlay}[snapshotter.native]\nsync_remove = true\n"
    settings = load(tmp_path, text).snapshotter
    assert (settings.overlayfs.root_path, settings.overlayfs.mount_options) == ("/a", ("volatile",))
    assert (settings.native.sync_remove, settings.overlayfs.sync_remove) == (True, False)


def test_proxy_plugins(tmp_path):
    text = '[proxy_plugins.other]\ntype = "snapshot"\naddress = "/a.sock"\ncapabilities = ["rebase"]\n'
    plugin = load(tmp_path, text).proxy_plugins["other"]
    assert (plugin.type, plugin.address, plugin.capabilities) == ("snapshot", "/a.sock", ("rebase",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('rot = "/a"', "rot"),
        ("[metadata]\nsink = true", "sink"),
        ("[snapshotter.overlay]\n", "overlay"),
        ("[snapshotter.native]\nslow_chown = true", "slow_chown"),
        ("root = 1", "root"),
        ('[proxy_plugins.other]\ntype = "sandbox"\naddress = "/a"', "sandbox"),
        ('[proxy_plugins.other]\ntype = "snapshot"', "address"),
        ("root = ", "config.toml"),
        ("version = 9", "version 9"),
        ('root = "/a"\nstate = "/a"', "differ"),
        ('root = ""', "must be set"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    with pytest.raises(errors.InvalidArgument, match=said):
        load(tmp_path, text)
