"""Configuration files: lines are found, and what is printed can be read again."""

import tomllib

import msgspec
import pytest

from daemon import config, settings

TEXT = """\
root = "/a"   # [gc]
list = [
  "[gc]",
  "x = 1",
]
text = '''
[gc]
pause_threshold = 1
'''
gc.pause_threshold = 0.1

[runtimes."a b"]
path = "/x"
[runtimes.c]
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("root",), 1),
        (("list",), 2),
        (("text",), 6),
        (("gc",), 10),
        (("gc", "pause_threshold"), 10),
        (("runtimes",), 12),
        (("runtimes", "a b"), 12),
        (("runtimes", "a b", "path"), 13),
        (("runtimes", "c"), 14),
        (("nosuch",), 0),
        (("root", "x"), 0),
    ],
)
def test_lines(path, line):
    assert settings.line_of(TEXT, path) == line


@pytest.mark.parametrize(
    "given",
    [
        config.Config(),
        config.Config(
            root='/a "b"\n\x7f\\é',
            log_level="debug",
            disabled_plugins=("a", "b"),
            gc=config.GC(pause_threshold=0.25),
            runtimes={"a b": config.RuntimeEntry(path="/x", args=("--y",)), "c": config.RuntimeEntry(path="z")},
            proxy_plugins={"p": config.ProxyPlugin(type="snapshot", address="/s", exports={"k.x": "v"})},
        ),
    ],
)
def test_what_is_printed_is_read_again(given):
    text = "\n".join(settings.dump(settings.plain(given)))
    assert msgspec.convert(tomllib.loads(text), config.Config) == given


def test_every_key_can_be_checked():
    table = settings.plain(config.Config())
    assert list(settings.check(msgspec.to_builtins(table), config.Config, config.Config)) == []
    for path, _ in settings.keys(config.Config):
        wrong = 1j
        for name in reversed(path):
            wrong = {name: wrong}
        (mistake,) = settings.check(wrong, config.Config, config.Config)
        assert mistake.path == path
