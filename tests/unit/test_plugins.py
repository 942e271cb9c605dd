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


def test_two_of_one_name():
    with pytest.raises(errors.InvalidArgument, match=r"t\.good is there already"):
        Plugins((*TABLE, TABLE[0]))


def test_what_a_component_says_of_itself():
    class Component:
        capabilities = frozenset({"b", "a"})
        platforms = ("linux/amd64",)
        exports = {"root": "/a"}

    plugins = Plugins((Row("t", "good", "daemon.kit.dictkv:DictKV", capabilities=("row",)),))
    plugins.one("t", "good", lambda cls: Component())
    (info,) = plugins.infos()
    assert (info.capabilities, info.platforms, info.exports) == (("row", "a", "b"), ("linux/amd64",), {"root": "/a"})


def test_all_are_closed_last_made_first():
    closed = []

    class Component:
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)
            if self.name == "b":
                raise OSError("closing b")

    class Awaited:
        async def close(self):
            raise AssertionError("the lifecycle's to close")

    plugins = Plugins(TABLE)
    for made in (Component("a"), Component("b"), Awaited(), object(), Component("c")):
        plugins.one("t", "good", lambda cls, made=made: made)
    with pytest.raises(OSError, match="closing b"):
        plugins.close()
    assert closed == ["c", "b", "a"]
    plugins.close()
    assert closed == ["c", "b", "a"]


def test_what_a_row_says_of_itself():
    row = Row("t", "good", "daemon.kit.dictkv:DictKV")
    plugins = Plugins([row])
    assert [info.status for info in plugins.infos()] == ["skip"]
    assert plugins.later("t", "good")().__name__ == "DictKV"
    (info,) = plugins.infos()
    assert (info.type, info.id, info.status, info.requires) == ("t", "good", "ok", row.requires)


def test_one_that_is_not_offered_here_is_skipped_not_broken(caplog):
    def unoffered(row, cls):
        raise errors.Unimplemented("no aufs in this kernel")

    plugins = Plugins(TABLE[:1])
    with caplog.at_level("INFO"):
        assert plugins.every("t", unoffered) == {}
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert [(info.status, info.init_error) for info in plugins.infos()] == [("skip", "no aufs in this kernel")]


def test_the_start_ends_with_one_it_cannot_do_without():
    def broken(cls):
        raise errors.DataLoss("metadata are damaged")

    with pytest.raises(errors.DataLoss):
        Plugins(TABLE).one("t", "good", broken)


def test_every_builtin_can_be_loaded():
    plugins = Plugins(ROWS)
    for row in ROWS:
        assert plugins.later(row.type, row.id)().__name__ == row.target.rpartition(":")[2]


def test_required_ones_must_work():
    plugins = Plugins(TABLE, required=["t.good", "t.bad"])
    plugins.every("t", make)
    with pytest.raises(errors.FailedPrecondition, match=r"required_plugins: t\.bad: no such filesystem$"):
        plugins.check()
    with pytest.raises(errors.FailedPrecondition, match=r"t\.good: not configured"):
        Plugins(TABLE, required=["t.good"]).check()
    with pytest.raises(errors.InvalidArgument, match=r"required_plugins: no plugin t\.nosuch"):
        Plugins(TABLE, required=["t.nosuch"])
    plugins = Plugins(TABLE, required=["t.good"])
    plugins.every("t", make)
    plugins.check()


def test_every_row_is_told_in_order():
    plugins = Plugins(TABLE)
    plugins.later("t", "bad")
    assert [(info.id, info.status) for info in plugins.infos()] == [("good", "skip"), ("bad", "ok"), ("absent", "skip")]
