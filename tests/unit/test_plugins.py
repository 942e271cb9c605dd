"""Components: one that fails is left out and says why; one that holdd cannot do without ends the start."""

import pytest

from daemon.builtin import ROWS, Row
from daemon.plugins import Plugins
from spec import errors

TABLE = (
    Row("t", "good", "daemon.kit.dictkv:DictKV"),
    Row("t", "bad", "daemon.kit.dictkv:DictKV"),
    Row("t", "absent", "daemon.nosuch:Thing"),
)


def make(row, cls):
    if row.id == "bad":
        raise errors.FailedPrecondition("no such filesystem")
    return cls()


def test_one_that_fails_is_left_out():
    plugins = Plugins(TABLE)
    assert list(plugins.every("t", make)) == ["good"]
    status = {info.id: (info.status, info.init_error) for info in plugins.infos()}
    assert status["good"] == ("ok", "")
    assert status["bad"] == ("error", "no such filesystem")
    assert status["absent"][0] == "error"
    assert "daemon.nosuch" in status["absent"][1]


def test_disabled_ones_are_skipped():
    plugins = Plugins(TABLE, disabled=["t.good", "t.bad", "t.absent"])
    assert plugins.every("t", make) == {}
    assert {info.status for info in plugins.infos()} == {"skip"}
    with pytest.raises(errors.InvalidArgument, match=r"t\.nosuch"):
        Plugins(TABLE, disabled=["t.nosuch"])
    with pytest.raises(errors.InvalidArgument, match="cannot do without"):
        plugins.one("t", "good", lambda cls: cls())


def test_all_are_closed_last_made_first():
    closed = []

    class Component:
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)

    plugins = Plugins(TABLE)
    for name in ("a", "b"):
        plugins.one("t", "good", lambda cls, name=name: Component(name))
    plugins.close()
    assert closed == ["b", "a"]


def test_every_builtin_can_be_loaded():
    plugins = Plugins(ROWS)
    for row in ROWS:
        assert plugins.later(row.type, row.id)().__name__ == row.target.rpartition(":")[2]
