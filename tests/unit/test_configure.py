"""`holdd config`: prints, finds mistakes, explains."""

import tomllib

import msgspec
import pytest

from daemon import command, config
from daemon.runtime.nursery import Nursery


@pytest.fixture
def holdd(tmp_path, capsys):
    """Run `holdd --config FILE ...`: exit code, output, errors."""

    def run(*args):
        code = command.run(["--config", str(tmp_path / "config.toml"), *args], Nursery.fork())
        return code, *capsys.readouterr()

    return run


def test_default_and_dump(holdd, tmp_path):
    (tmp_path / "config.toml").write_text("[gc]\npause_threshold = 0.25\n")
    code, out, _ = holdd("config", "default")
    assert (code, msgspec.convert(tomllib.loads(out), config.Config)) == (0, config.Config())
    code, out, _ = holdd("--root", "/x", "config", "dump")
    dumped = msgspec.convert(tomllib.loads(out), config.Config)
    assert dumped == config.Config(root="/x", gc=config.GC(pause_threshold=0.25))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("rot = 1", "config.toml, line 1: unknown key rot; did you mean root?"),
        ("required_plugins = ['x.y']", "required_plugins: no plugin x.y"),
        ("disabled_plugins = ['x.y']", "disabled_plugins: no plugin x.y"),
        ("proxy_plugins.native = {type = 'snapshot', address = '/x'}", "snapshotter.v1.native is there already"),
    ],
)
def test_check(holdd, tmp_path, text, said):
    (tmp_path / "config.toml").write_text(text)
    code, out, err = holdd("config", "check")
    assert (code, said in err) == (int(bool(said)), True)
    assert out == ("" if said else f"{tmp_path}/config.toml: fine\n")


def test_mistakes_are_a_line_each(holdd, tmp_path):
    (tmp_path / "config.toml").write_text("a = 1\nb = 2\n")
    code, _, err = holdd("config", "check")
    assert code == 1
    assert [line[:21] for line in err.splitlines()] == ["holdd: configuration "] * 2


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("gc.pause_threshold", ["pause_threshold = 0.25", "config.toml, line 2", "default:  0.02", "takes effect"]),
        ("gc.deletion_threshold", ["deletion_threshold = 0", "set by:   default", "deletions make a run due"]),
        ("content.sync", ["sync = false", "conf.d/a.toml, line 2", "needs a restart"]),
        ("root", ['root = "/x"', "set by:   command line"]),
        ("runtimes", ["runtimes.r.path", "runtimes.r.timeout_s", "default:  none"]),
        ("proxy_plugins", ["proxy_plugins is empty"]),
    ],
)
def test_explain(holdd, tmp_path, key, lines):
    (tmp_path / "config.toml").write_text("[gc]\npause_threshold = 0.25\n[runtimes.r]\npath='/r'\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text("[content]\nsync = false\n")
    code, out, _ = holdd("--root", "/x", "config", "explain", key)
    assert code == 0
    assert all(line in out for line in lines), out


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("gc.pause", "no key gc.pause; did you mean gc.pause_threshold?"),
        ("root.x", "no key root.x"),
        ("a b", "'a b' is not a key"),
        ("", "'' is not a key"),
    ],
)
def test_explain_what_is_no_key(holdd, key, said):
    code, _, err = holdd("config", "explain", key)
    assert (code, said in err) == (1, True)
