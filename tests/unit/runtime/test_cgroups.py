"""Where cgroups are: version 1, version 2, and the hybrid."""

import pytest

from daemon.runtime import cgroups
from daemon.runtime.cgroups import Hierarchy


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host whose hierarchies and memberships are made up, below a directory."""

    def made(kind, memberships):
        found = []
        for name, controllers in kind.items():
            mount = tmp_path / name
            mount.mkdir()
            found.append(Hierarchy(frozenset(controllers), "/", str(mount)))
        monkeypatch.setattr(cgroups, "hierarchies", lambda: tuple(found))
        monkeypatch.setattr(cgroups, "_membership", lambda pid, controller: memberships[pid].get(controller, ""))
        return tmp_path

    return made


def fill(path, *pids):
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


def test_this_host_has_some():
    assert cgroups.hierarchies()
    assert cgroups.directory("self", "memory") == ""  # our own is nobody's


def test_version_1(host):
    theirs = {"devices": "/a", "memory": "/a", "": "/"}
    root = host({"devices": ["devices"], "memory": ["memory"]}, {7: theirs, "self": {"devices": "/"}})
    fill(root / "devices/a", 7, 8)
    fill(root / "devices/a/nested", 9)
    assert cgroups.directory(7, "devices") == str(root / "devices/a")
    assert cgroups.memory(7) == str(root / "memory/a")
    assert cgroups.processes(7) == [7, 8, 9]


def test_version_2(host):
    root = host({"unified": []}, {7: {"": "/a"}, "self": {"": "/daemon"}})
    fill(root / "unified/a", 7)
    assert cgroups.memory(7) == str(root / "unified/a")
    assert cgroups.processes(7) == [7]


def test_the_daemons_own_is_not_the_containers(host):
    root = host({"unified": []}, {7: {"": "/daemon"}, "self": {"": "/daemon"}})
    fill(root / "unified/daemon", 1, 7)
    assert cgroups.memory(7) == ""
    assert cgroups.processes(7) == [7]


def test_where_a_spec_puts_a_container(host):
    root = host({"memory": ["memory"], "cpu": ["cpu"]}, {})
    fill(root / "memory/a/b", 7)
    assert cgroups.placed("/a/b") == cgroups.placed("/a/./b/") == [str(root / "memory/a/b")]
    for path in ("", "/", "//", "/..", "a/b", "slice:prefix:name"):
        assert cgroups.placed(path) == []
    assert cgroups.holds("/a/b", 7)
    assert not cgroups.holds("/a/b", 8)


def test_the_cgroups_of_a_container(host):
    """By its spec where that is there, by its init process elsewhere, and never the daemon's own."""
    memberships = {
        7: {"memory": "/a/b/inner", "cpu": "/elsewhere", "pids": "/daemon", "": "/a/b"},
        "self": {"memory": "/daemon", "cpu": "/daemon", "pids": "/daemon", "": "/"},
    }
    kinds = {"memory": ["memory"], "cpu": ["cpu"], "pids": ["pids"], "unified": []}
    root = host(kinds, memberships)
    fill(root / "memory/a/b/inner", 7)
    assert cgroups.directories(7, "/a/b") == {
        "memory": str(root / "memory/a/b"),
        "cpu": str(root / "cpu/elsewhere"),
        "unified": str(root / "unified/a/b"),
    }
    assert cgroups.directories(7, "slice:prefix:name")["memory"] == str(root / "memory/a/b/inner")


def test_members_of_what_a_spec_names(host):
    root = host({"memory": ["memory"], "pids": ["pids"]}, {})
    fill(root / "memory/a", 7)
    fill(root / "pids/a/nested", 8)
    fill(root / "pids/b", 9)
    assert cgroups.members(cgroups.placed("/a")) == {7, 8}
    assert cgroups.placed("/none") == cgroups.placed("") == cgroups.placed("slice:a:b") == cgroups.placed("/") == []


@pytest.mark.parametrize(
    ("kind", "file", "word"), [(["freezer"], "freezer.state", "THAWED"), ([], "cgroup.freeze", "0")]
)
def test_what_is_frozen_is_thawed(host, kind, file, word):
    root = host({"mounted": kind}, {7: {}, "self": {}})
    (root / "mounted/a").mkdir()
    (root / "mounted/a" / file).write_text("as it was")
    cgroups.thaw(7, "/a")
    assert (root / "mounted/a" / file).read_text() == word
    cgroups.thaw(7, "/gone")
    cgroups.thaw(7, "")


def test_only_what_is_empty_is_removed(host):
    root = host({"memory": ["memory"]}, {})
    (root / "memory/a/b").mkdir(parents=True)
    cgroups.remove(cgroups.placed("/a"))
    assert (root / "memory/a/b").is_dir()
    cgroups.remove(cgroups.placed("/a/b"))
    assert not (root / "memory/a/b").exists()


@pytest.mark.parametrize(
    ("parent", "path", "expected"),
    [
        ("", "/a/b", "/a/b"),
        ("/p", "/a/b", "/p/a/b"),
        ("/p/", "//a/../../b/", "/p/b"),
        ("/p", "", ""),
        ("/p", "system.slice:holdd:a", "system.slice:holdd:a"),
    ],
)
def test_below_a_parent(parent, path, expected):
    assert cgroups.below(parent, path) == expected


def test_what_is_elsewhere_is_gathered(tmp_path, monkeypatch):
    """Under version 2; with a hierarchy of version 1 runtimes see to it."""
    unified = cgroups.Hierarchy(frozenset(), "/", str(tmp_path))
    where = {1: "/ns/was", 2: "/ns/was/deep", 3: "/ns/id/inner", "self": "/daemon"}
    monkeypatch.setattr(cgroups, "hierarchies", lambda: (unified,))
    monkeypatch.setattr(cgroups, "_membership", lambda pid, controller: where[pid])
    for path in ("ns/was/deep", "ns/id/inner"):
        (tmp_path / path).mkdir(parents=True)
    moved = []

    def write(path, text):
        moved.append((str(path), text))
        where[int(text)] = "/ns/id"

    monkeypatch.setattr(cgroups, "_write", write)
    cgroups.gather(lambda: (1, 2, 3), "/ns/id")
    assert moved == [(f"{tmp_path}/ns/id/cgroup.procs", pid) for pid in ("1", "2")]
    assert not (tmp_path / "ns/was/deep").exists()
    where[1] = "/ns/was"
    monkeypatch.setattr(cgroups, "hierarchies", lambda: (unified, unified._replace(controllers=frozenset({"pids"}))))
    cgroups.gather(lambda: (1,), "/ns/id")
    assert len(moved) == 2
