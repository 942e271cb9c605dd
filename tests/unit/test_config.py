"""The configuration: absent is fine, wrong is an error that names the file and the key."""

import re

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
        ('root = "/a"\nstate = "/a"', "line 2: root and state must differ"),
        ('root = ""', "line 1: root must be set"),
        ('address = ""', "address must be set"),
        ("\nrot = 1", "config.toml, line 2: unknown key rot; did you mean root?"),
        ("[gc]\n\n# so\npause = 1", "line 4: unknown key gc.pause; did you mean gc.pause_threshold?"),
        ("pause_threshold = 1", "line 1: unknown key pause_threshold; did you mean gc.pause_threshold?"),
        ("sync = false", "unknown key sync; did you mean metadata.sync or content.sync?"),
        ("[zzz]\nx = 1", "line 1: unknown key zzz\n"),
        ("[snapshotter]\noverlay.slow_chown = true", "line 2: unknown key snapshotter.overlay; did you mean"),
        ("[gc]\npause_threshold = 0.6", "line 2: gc.pause_threshold: expected `float` <= 0.5"),
        ("gc = 5", "line 1: gc is a table, not 5"),
        ("[runtimes]\nrunc = 'x'", 'line 2: runtimes.runc is a table, not "x"'),
        ("[runtimes.'a b']\nroot = '/x'", 'line 1: runtimes."a b" has no path'),
        ("[runtimes.a]\npath = '/x'\nargs = ['x', 1]", "line 3: runtimes.a.args: expected `str`, got `int`"),
        ("log_level = 'loud'", "log_level: invalid enum value 'loud'"),
        ("imports = 3", "line 1: imports: expected `array`, got `int`"),
        ("imports = ['nosuch.toml']", "reading configuration .*nosuch.toml: No such file"),
        ("[events]\nring_size = 5", "ring_size: expected `int` >= 4194304"),
        ("disabled_plugins = ['a']\nrequired_plugins = ['a']", "line 2: a cannot be required and disabled"),
        ("root = 1\nroot = 2", "Cannot overwrite a value"),
        ("root = '\x01'", "config.toml: "),
        ("version = 'one'", "line 1: version 'one', this holdd knows 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    with pytest.raises(errors.Error) as caught:
        load(tmp_path, text)
    assert re.search(said.replace("?", r"\?"), f"{caught.value.message}\n")


def test_every_mistake_is_told(tmp_path):
    with pytest.raises(errors.InvalidArgument) as caught:
        load(tmp_path, "rot = 1\nlog_format = 5\n[gc]\nx = 1\n[proxy_plugins.p]\ntype = 'sandbox'\n")
    lines = [line.partition("config.toml, ")[2].partition(":")[0] for line in caught.value.message.splitlines()]
    assert lines == ["line 1", "line 2", "line 4", "line 6", "line 5"]


def test_drop_ins(tmp_path):
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "20-b.toml").write_text("disabled_plugins = ['y', 'x']\n[gc]\ndeletion_threshold = 2\n")
    (folder / "10-a.toml").write_text(
        "imports = ['../more.toml', '10-a.toml']\n[gc]\ndeletion_threshold = 1\nmutation_threshold = 1\n"
    )
    (folder / "ignored").write_text("nonsense")
    (tmp_path / "more.toml").write_text("[runtimes.r]\npath = '/r'\n[content]\nsync = false\n")
    text = "disabled_plugins = ['x']\n[gc]\npause_threshold = 0.5\n[runtimes.r]\nno_pivot = true\n"
    settings = load(tmp_path, text)
    assert settings.gc == config.GC(pause_threshold=0.5, deletion_threshold=2, mutation_threshold=1)
    assert settings.disabled_plugins == ("x", "y")
    assert settings.runtimes == {"r": config.RuntimeEntry(path="/r", no_pivot=True)}
    assert not settings.content.sync
    assert load(tmp_path, f"imports = []\n{text[: text.index('[runtimes')]}").gc.deletion_threshold == 0


def test_drop_ins_without_a_main_file(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text("log_level = 'debug'")
    assert config.load(str(tmp_path / "config.toml"), {}).log_level == "debug"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gc]\npause = 1", "conf.d/a.toml, line 2: unknown key gc.pause"),
        ("version = 2\nwhatever = 1", "conf.d/a.toml, line 1: version 2, this holdd knows 1"),
        ("[[", "conf.d/a.toml: "),
        ("gc.pause_threshold = true", "conf.d/a.toml, line 1: gc.pause_threshold"),
    ],
)
def test_what_is_wrong_in_a_drop_in(tmp_path, text, said):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text(text)
    with pytest.raises(errors.InvalidArgument, match=said):
        load(tmp_path, "[gc]\n\n\npause_threshold = 0.1\n")


def test_what_a_reload_takes_up():
    old = config.Config()
    new = config.Config(
        log_level="debug", gc=config.GC(deletion_threshold=3), registry=config.Registry(hosts_dir="/x"), root="/y"
    )
    keys = config.changed(old, new)
    assert keys == [("root",), ("log_level",), ("gc", "deletion_threshold"), ("registry", "hosts_dir")]
    assert [path for path in keys if not config.reloadable(path)] == [("root",)]
