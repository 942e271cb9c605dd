import io
import json
import logging
from collections.abc import Iterator

import pytest

from daemon.kit import context
from daemon.kit.log import setup

log = logging.getLogger("holdd.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_has_the_call():
    out = io.StringIO()
    setup("debug", "json", out)
    with context.entered(context.Call(namespace="n", lease="l", trace="t")):
        log.debug("pulled %s", "x")
    line = json.loads(out.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "debug", "msg": "pulled x", "logger": "holdd.test", "namespace": "n", "lease": "l", "trace": "t",
    }  # fmt: skip


def test_json_has_the_exception():
    out = io.StringIO()
    setup("info", "json", out)
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("it failed")
    assert "ValueError: boom" in json.loads(out.getvalue())["error"]


def test_text_keeps_a_record_to_its_line():
    out = io.StringIO()
    setup("info", "text", out)
    with context.using(namespace="n"):
        log.info("name %s", "a\nforged line")
    (line,) = out.getvalue().splitlines()
    assert line.endswith("info    holdd.test: name a\\nforged line namespace=n")


def test_level_and_replacement():
    first, second = io.StringIO(), io.StringIO()
    setup("info", "text", first)
    setup("warn", "text", second)
    log.info("no")
    log.warning("yes")
    assert first.getvalue() == ""
    assert "yes" in second.getvalue()
    assert "no" not in second.getvalue()


@pytest.mark.parametrize("bad", [{"level": "loud"}, {"format": "xml"}])
def test_unknown_setting(bad: dict[str, str]):
    with pytest.raises(KeyError):
        setup(**bad)
