"""What every snapshotter does (spec.ports.Snapshotter), with real mounts. A further implementation is one row of
IMPLEMENTATIONS."""

import errno
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon.client import connect
from daemon.client.proxies import PLUGIN_TYPE, RemoteSnapshotter
from daemon.config import ProxyPlugin
from daemon.events.exchange import Exchange
from daemon.kit import mounting
from daemon.kit.dictkv import DictKV
from daemon.kit.threads import Pool
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.proxy import ProxySnapshotter
from daemon.scoped.snapshots import ScopedSnapshots
from daemon.services.introspection import Introspection
from daemon.services.snapshots import Snapshots
from daemon.snapshots.aufs import Aufs
from daemon.snapshots.btrfs import Btrfs
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import errors
from spec.api import introspection as introspection_api
from spec.api import snapshots as snapshots_api
from spec.records import Kind, PluginInfo, SnapshotInfo
from tests.echo import SECONDS, Server
from tests.proxied import Proxied

pytestmark = pytest.mark.root

ROOTED = {"containerd.io/gc.root": "test"}


def over_dict(snapshotter):
    @contextmanager
    def make(directory):
        yield snapshotter(str(directory / "snapshots"), DictKV())

    return make


def over_lmdb(snapshotter):
    @contextmanager
    def make(directory):
        store = Store(str(directory / "metadata"), sync=False)
        try:
            yield snapshotter(str(directory / "snapshots"), BucketKV(store, "snapshots", "test"))
        finally:
            store.close()

    return make


@contextmanager
def scoped(directory):
    yield ScopedSnapshots(Overlay(str(directory / "snapshots"), DictKV()), "overlay", Exchange(), "default")


@contextmanager
def remote(directory):
    pool = Pool("snapshots", 8)
    with scoped(directory) as snapshotter:
        plugin = PluginInfo(type=PLUGIN_TYPE, id="overlay", capabilities=sorted(snapshotter.capabilities))
        services = [
            (snapshots_api.Snapshots, Snapshots(lambda namespace, name: snapshotter, pool)),
            (introspection_api.Introspection, Introspection("uuid", lambda: [plugin])),
        ]
        with Server(extra=services) as server, connect(server.path, "default", timeout_s=SECONDS) as client:
            yield RemoteSnapshotter(client, "overlay")
        pool.close()


@pytest.fixture(scope="module", autouse=True)
def other_process(tmp_path_factory):
    """One for all: a test has a namespace of it."""
    with Proxied(tmp_path_factory.mktemp("proxied")) as other:
        _others.append(other)
        yield
        _others.clear()


_others: list[Proxied] = []


@contextmanager
def proxied(directory):
    plugin = ProxyPlugin(type="snapshot", address=_others[0].address, capabilities=("rebase",), timeout_s=SECONDS)
    with closing(ProxySnapshotter("other", plugin)) as raw:
        yield ScopedSnapshots(raw, "other", Exchange(), directory.name.replace("_", "-").strip("-"))


def where_offered(make):
    """As `make` does, or a skip that says why this host has none."""

    @contextmanager
    def made(directory):
        with ExitStack() as stack:
            try:
                snapshotter = stack.enter_context(make(directory))
            except errors.Unimplemented as exc:
                pytest.skip(exc.message.partition(": ")[2])
            yield snapshotter

    return made


class Row(NamedTuple):
    """`make` gives a context manager of an empty snapshotter, of a directory on the `disk` (tests.disks). Without
    `moves_directories` those of a lower layer cannot be renamed: EXDEV."""

    make: Callable
    disk: str = "ext4"
    moves_directories: bool = True


IMPLEMENTATIONS = {
    "overlay-ext4": Row(over_dict(Overlay), moves_directories=False),
    "overlay-xfs": Row(over_dict(Overlay), "xfs", moves_directories=False),
    "overlay-lmdb": Row(over_lmdb(Overlay), moves_directories=False),
    "native-ext4": Row(over_dict(Native)),
    "native-xfs": Row(over_dict(Native), "xfs"),
    "native-lmdb": Row(over_lmdb(Native)),
    "btrfs": Row(over_dict(Btrfs), "btrfs"),
    "btrfs-lmdb": Row(over_lmdb(Btrfs), "btrfs"),
    "aufs": Row(where_offered(over_dict(Aufs)), moves_directories=False),
    "scoped": Row(scoped, moves_directories=False),
    "remote": Row(remote, moves_directories=False),
    "proxied": Row(proxied, moves_directories=False),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def row(request):
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
def snapshots(row, disks):
    if row.disk not in disks:
        pytest.skip(f"there is no {row.disk} here")
    before = os.umask(0)
    try:
        # Read-only subvolumes of btrfs stay, and go with their disk.
        with (
            tempfile.TemporaryDirectory(dir=disks[row.disk], ignore_cleanup_errors=True) as directory,
            row.make(Path(directory)) as snapshotter,
        ):
            yield snapshotter
            snapshotter.cleanup()
            snapshotter.close()
            snapshotter.close()
    finally:
        os.umask(before)


@pytest.fixture
def mounted(tmp_path):
    """`with mounted(mounts) as path`: what they show."""
    base = tmp_path / "mounted"
    base.mkdir()

    @contextmanager
    def mount(mounts):
        target = base / str(len(os.listdir(base)))
        target.mkdir()
        mounting.attach(mounts, str(target))
        try:
            yield target
        finally:
            mounting.detach(str(target))

    return mount


@pytest.fixture
def layer(snapshots, mounted):
    """`layer(name, parent, change)`: a committed snapshot of what `change(path)` made of `parent`."""

    def make(name, parent="", change=lambda path: None):
        with mounted(snapshots.prepare(f"preparing {name}", parent, ROOTED)) as path:
            change(path)
        snapshots.commit(name, f"preparing {name}", ROOTED)
        return name

    return make


@pytest.fixture
def shown(snapshots, mounted):
    """`shown(name)`: all that a view of `name` has, by path."""

    def show(name):
        key = f"showing {name}"
        with mounted(snapshots.view(key, name, ROOTED)) as path:
            found = tree(path)
        snapshots.remove(key)
        return found

    return show


def tree(root):
    """Path -> what is there: mode, owner, and the content or target."""
    found = {}
    for path in sorted([root, *root.rglob("*")]):
        info = path.lstat()
        content = ""
        if stat.S_ISREG(info.st_mode):
            content = path.read_text()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_gid, content)
    return found


def write(path, text="", mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def raises(error, text=None):
    return pytest.raises(error, match=text)


# containerd's cases


def test_basic(snapshots, mounted, layer):
    with mounted(snapshots.prepare("first", labels=ROOTED)) as path:
        write(path / "foo", "foo\n", 0o777)
        (path / "a/b/c").mkdir(parents=True)
        first = tree(path)
    snapshots.commit("base", "first", ROOTED)
    info = snapshots.stat("base")
    assert (info.kind, info.parent, info.labels) == (Kind.COMMITTED, "", ROOTED)
    with raises(errors.NotFound):
        snapshots.stat("first")

    with mounted(snapshots.prepare("second", "base", ROOTED)) as path:
        assert tree(path) == first
        write(path / "bar", "bar\n", 0o777)
        (path / "a/b/c").rmdir()
        second = tree(path)
    assert snapshots.stat("second").parent == "base"
    snapshots.commit("diff", "second", ROOTED)

    for info in snapshots.list():
        assert snapshots.stat(info.name) == info
    assert {info.name for info in snapshots.list()} == {"base", "diff"}

    with mounted(snapshots.view("view", "diff", ROOTED)) as path:
        assert tree(path) == second
    with raises(errors.FailedPrecondition, "remov"):
        snapshots.remove("base")
    for key in ("view", "diff", "base"):
        snapshots.remove(key)
    assert list(snapshots.list()) == []


@pytest.mark.parametrize(("method", "kind"), [("prepare", Kind.ACTIVE), ("view", Kind.VIEW)])
def test_stat_of_an_active_one(snapshots, method, kind):
    getattr(snapshots, method)("key", labels={"a": "1"})
    info = snapshots.stat("key")
    assert (info.name, info.kind, info.parent, info.labels) == ("key", kind, "", {"a": "1"})


def test_stat_of_a_committed_one(snapshots, layer):
    info = snapshots.stat(layer("name"))
    assert (info.name, info.kind, info.parent) == ("name", Kind.COMMITTED, "")


def test_transitivity(snapshots, layer):
    layer("b", layer("a"))
    assert snapshots.stat("b").parent == "a"
    assert snapshots.stat("a").parent == ""


@pytest.mark.parametrize("second", ["prepare", "view"])
@pytest.mark.parametrize("first", ["prepare", "view"])
def test_a_key_twice(snapshots, layer, first, second):
    layer("base")
    getattr(snapshots, first)("key", "base")
    with raises(errors.AlreadyExists):
        getattr(snapshots, second)("key", "base")


@pytest.mark.parametrize("kind", ["committed", "active", "view"])
@pytest.mark.parametrize("parent", ["", "base"], ids=["no parent", "parent"])
def test_update(snapshots, layer, kind, parent):
    layer("base")
    before = time.time_ns()
    make = snapshots.view if kind == "view" else snapshots.prepare
    make("key", parent, {"l1": "v1", "l2": "v2", "l3": "v3"})
    if kind == "committed":
        snapshots.commit("name", "key", {"l1": "v1", "l2": "v2", "l3": "v3"})
    name = "name" if kind == "committed" else "key"
    first = snapshots.stat(name)
    assert before <= first.created_at_ns == first.updated_at_ns <= time.time_ns()

    def update(labels, *fields, parent=parent):
        updated = snapshots.update(SnapshotInfo(name=name, parent=parent, labels=labels), fields)
        assert updated == snapshots.stat(name)
        assert updated.created_at_ns == first.created_at_ns
        assert updated.updated_at_ns >= first.updated_at_ns
        assert (updated.parent, updated.kind) == (first.parent, first.kind)
        return updated.labels

    assert update({"l1": "new"}, parent="something else") == {"l1": "new"}
    assert update({"l1": "1", "l2": "2", "l3": "3"}, "labels.l1", "labels.l2") == {"l1": "1", "l2": "2"}
    assert update({"l2": "22"}, "labels.l1", "labels.l2") == {"l2": "22"}
    assert update({"l4": "4"}, "labels") == {"l4": "4"}
    for field in ("parent", "kind", "nonsense"):
        with raises(errors.InvalidArgument):
            update({}, field)
    with raises(errors.NotFound):
        snapshots.update(SnapshotInfo(name="missing", labels={"a": "1"}))


def test_names_and_keys_can_be_taken_again(snapshots, layer):
    layer("base")
    for method in ("prepare", "view", "prepare"):
        getattr(snapshots, method)("key", "base")
        snapshots.remove("key")
    for _ in range(2):
        snapshots.prepare("key", "base")
        snapshots.commit("name", "key")
        snapshots.remove("name")


@pytest.fixture
def eight(snapshots):
    """As in containerd's case Walk."""

    def labels(value):
        return {**ROOTED, **({"l": value} if value else {})}

    snapshots.prepare("a-np", "", labels(""))
    snapshots.prepare("p-tmp", "", labels(""))
    snapshots.commit("p", "p-tmp", labels(""))
    snapshots.prepare("a", "p", labels(""))
    snapshots.view("v", "p", labels(""))
    snapshots.prepare("p-wl-tmp", "", labels(""))
    snapshots.commit("p-wl", "p-wl-tmp", labels("1"))
    snapshots.prepare("a-wl", "p-wl", labels("2"))
    snapshots.view("v-wl", "p-wl", labels("3"))
    snapshots.prepare("a-np-wl", "", labels("2"))
    return snapshots


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ([], "a a-np a-np-wl a-wl p p-wl v v-wl"),
        (['labels."containerd.io/gc.root"'], "a a-np a-np-wl a-wl p p-wl v v-wl"),
        (["kind==active"], "a a-np a-np-wl a-wl"),
        (["kind==view"], "v v-wl"),
        (["kind==committed"], "p p-wl"),
        (["name==p", "name==a-np-wl"], "a-np-wl p"),
        (["name==a-wl,labels.l"], "a-wl"),
        (["parent==p"], "a v"),
        (['parent!=""'], "a a-wl v v-wl"),
        (["labels.l"], "a-np-wl a-wl p-wl v-wl"),
        (["labels.l==2"], "a-np-wl a-wl"),
    ],
    ids=str,
)
def test_walk(eight, filters, names):
    assert sorted(info.name for info in eight.list(filters)) == names.split()


def test_a_filter_that_cannot_be_read(snapshots):
    with raises(errors.InvalidArgument):
        list(snapshots.list(["name==="]))


def test_files_of_one_size_change(layer, shown):
    """Changes that neither size nor time betrays, and changes of mode alone, survive."""

    def set_file(path, text, mode):
        write(path / "etc/file", text, mode)
        os.utime(path / "etc/file", (1_000_000_000, 1_000_000_000))

    layer("layer 0", "", lambda path: set_file(path, "content 0", 0o644))
    for number in range(1, 6):
        text, mode = f"content {number}", 0o644
        layer(f"layer {number}", f"layer {number - 1}", lambda path, text=text: set_file(path, text, 0o644))
        assert shown(f"layer {number}")["etc/file"][3] == text
        mode = 0o600 + number
        layer(f"mode {number}", f"layer {number}", lambda path, mode=mode: (path / "etc/file").chmod(mode))
        found = shown(f"mode {number}")["etc/file"]
        assert (stat.S_IMODE(found[0]), found[3]) == (mode, text)


def test_a_directory_of_a_lower_layer_is_replaced(layer, shown):
    layer("lower", "", lambda path: write(path / "lib/hidden"))

    def change(path):
        shutil.rmtree(path / "lib")
        write(path / "lib/not-hidden")

    layer("upper", "lower", change)
    assert set(shown("upper")) == {".", "lib", "lib/not-hidden"}


def test_chown(layer, shown):
    def first(path):
        write(path / "opt/a", "hello")
        write(path / "opt/b", "hello")
        os.chown(path / "opt", 1, 1)
        os.chown(path / "opt/a", 1, 2)

    layer("lower", "", first)
    layer("upper", "lower", lambda path: os.chown(path / "opt/a", 2, 1))
    found = shown("upper")
    assert [found[name][1:3] for name in ("opt", "opt/a", "opt/b")] == [(1, 1), (2, 1), (0, 0)]
    assert found["opt/a"][3] == "hello"


def test_modes_of_directories_when_only_their_children_change(layer, shown):
    modes = {"a": 0o700, "b": 0o751, "c": 0o777, "sticky": 0o1777, "group": 0o2755}

    def first(path):
        for name, mode in modes.items():
            (path / name).mkdir()
            (path / name).chmod(mode)
            os.chown(path / name, 1, 1) if name != "group" else None

    def change(path):
        for name in modes:
            write(path / name / "file")

    layer("upper", layer("lower", "", first), change)
    found = shown("upper")
    assert {name: stat.S_IMODE(found[name][0]) for name in modes} == modes
    assert found["a"][1:3] == (1, 1)


def test_removing_an_intermediate_one(snapshots, layer):
    layer("top", layer("middle", layer("base")))
    snapshots.prepare("key", "top")
    for name in ("base", "middle", "top"):
        with raises(errors.FailedPrecondition):
            snapshots.remove(name)
    for name in ("key", "top", "middle", "base"):
        snapshots.remove(name)


def test_files_deleted_in_a_child_stay_deleted(layer, shown):
    def first(path):
        for name in ("foo/bar", "foo/baz", "etc/passwd", "gone"):
            write(path / name, name)

    def delete(path):
        (path / "foo/bar").unlink()
        (path / "gone").unlink()
        write(path / "etc/added")

    layer("two", layer("one", "", first), delete)
    layer("four", layer("three", "two", lambda path: write(path / "x")), lambda path: write(path / "y"))
    assert set(shown("four")) == {".", "foo", "foo/baz", "etc", "etc/passwd", "etc/added", "x", "y"}


def test_what_was_deleted_comes_back(layer, shown):
    layer("one", "", lambda path: write(path / "file", "old"))
    layer("two", "one", lambda path: (path / "file").unlink())
    layer("three", "two", lambda path: write(path / "file", "new"))
    assert "file" not in shown("two")
    assert shown("three")["file"][3] == "new"


def test_a_file_of_a_lower_layer_is_moved(layer, shown):
    layer("lower", "", lambda path: write(path / "dir1/f1", "content"))

    def move(path):
        (path / "dir2").mkdir()
        (path / "dir1/f1").rename(path / "dir2/f1")

    layer("upper", "lower", move)
    found = shown("upper")
    assert "dir1/f1" not in found
    assert found["dir2/f1"][3] == "content"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_view_is_read_only(snapshots, layer, mounted, depth):
    parent = ""
    for number in range(depth):
        parent = layer(f"layer {number}", parent, lambda path: write(path / "file", "content"))
    with mounted(snapshots.view("view", parent)) as path:
        for change in (
            lambda: (path / "new").write_text(""),
            lambda: (path / "folder").mkdir(),
            lambda: path.chmod(0o700),
            *((lambda: (path / "file").write_text(""), lambda: (path / "file").unlink()) if depth else ()),
        ):
            with pytest.raises(OSError, match="Read-only") as failure:
                change()
            assert failure.value.errno == errno.EROFS


def test_stat_while_listing(snapshots, layer):
    layer("second", layer("first"))
    snapshots.prepare("key", "second")
    seen = []
    for info in snapshots.list():
        assert snapshots.stat(info.name) == info
        seen.append(info.name)
    assert sorted(seen) == ["first", "key", "second"]


def test_the_root_of_a_new_one_is_0755(snapshots, mounted):
    with mounted(snapshots.prepare("key")) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_renames(row, snapshots, layer, shown):
    def first(path):
        for name in ("dir1/f1", "dir1/f2", "somefiles/f1", "somefiles/f2"):
            write(path / name, name)

    def change(path):
        (path / "somefiles/f1").rename(path / "somefiles/f11")
        (path / "somefiles/f2").rename(path / "f2")
        write(path / "new/file", "new")
        (path / "new").rename(path / "moved")
        if row.moves_directories:
            (path / "dir1").rename(path / "dir2")
        else:
            shutil.move(path / "dir1", path / "dir2")  # renames if the kernel does it after all

    layer("upper", layer("lower", "", first), change)
    files = {name: what[3] for name, what in shown("upper").items() if stat.S_ISREG(what[0])}
    assert files == {
        "dir2/f1": "dir1/f1",
        "dir2/f2": "dir1/f2",
        "somefiles/f11": "somefiles/f1",
        "f2": "somefiles/f2",
        "moved/file": "new",
    }


def test_128_layers(snapshots, mounted):
    flat = {}
    parent = ""
    for number in range(128):
        with mounted(snapshots.prepare(f"key {number}", parent)) as path:
            assert {file.name: file.read_text() for file in path.iterdir()} == flat
            flat[f"file {number}"] = flat["changing"] = str(number)
            (path / f"file {number}").write_text(str(number))
            (path / "changing").write_text(str(number))
            if number % 10 == 9:
                (path / f"file {number - 5}").unlink()
                del flat[f"file {number - 5}"]
            assert {file.name: file.read_text() for file in path.iterdir()} == flat
        parent = f"layer {number}"
        snapshots.commit(parent, f"key {number}")
    with mounted(snapshots.view("view", parent)) as path:
        assert {file.name: file.read_text() for file in path.iterdir()} == flat


# And ours


def test_what_is_not_there(snapshots):
    for question in (snapshots.stat, snapshots.mounts, snapshots.remove, snapshots.usage):
        with raises(errors.NotFound, "missing"):
            question("missing")
    with raises(errors.NotFound, "missing"):
        snapshots.commit("name", "missing")


@pytest.mark.parametrize("method", ["prepare", "view"])
def test_parents_that_cannot_be(snapshots, method):
    make = getattr(snapshots, method)
    snapshots.prepare("active")
    snapshots.view("view")
    with raises(errors.NotFound, "missing"):
        make("key", "missing")
    for parent in ("active", "view"):
        with raises(errors.InvalidArgument):
            make("key", parent)
    with raises(errors.InvalidArgument):
        make("")
    with raises(errors.NotFound):
        snapshots.stat("key")


def test_commits_that_cannot_be(snapshots, layer):
    layer("name")
    snapshots.prepare("key")
    snapshots.view("view", "name")
    with raises(errors.AlreadyExists):
        snapshots.commit("name", "key")
    with raises(errors.AlreadyExists):
        snapshots.commit("view", "key")
    for committed_or_view in ("name", "view"):
        with raises(errors.FailedPrecondition):
            snapshots.commit("other", committed_or_view)
    assert snapshots.stat("key").kind == Kind.ACTIVE
    snapshots.commit("other", "key")


def test_capabilities(snapshots):
    assert snapshots.capabilities <= {"rebase", "remap-ids", "only-remap-ids"}


@pytest.fixture
def rebasing(snapshots):
    if "rebase" not in snapshots.capabilities:
        pytest.skip("it cannot rebase")
    return snapshots


def test_rebasing(rebasing, layer, mounted, shown):
    """What was prepared apart shows on top of its parent as if it had been prepared there."""

    def base(path):
        write(path / "file", "base")
        write(path / "kept", "base")
        path.chmod(0o2750)
        os.chown(path, 1000, 2000)

    layer("above", layer("base", "", base), lambda path: write(path / "more"))
    with mounted(rebasing.prepare("apart")) as path:
        write(path / "file", "apart")
        write(path / "folder/new", "apart")
    rebasing.commit("name", "apart", ROOTED, None, "above")
    assert (rebasing.stat("name").parent, rebasing.stat("name").labels) == ("above", ROOTED)
    found = shown("name")
    assert {name: what[3] for name, what in found.items() if stat.S_ISREG(what[0])} == {
        "file": "apart",
        "kept": "base",
        "more": "",
        "folder/new": "apart",
    }
    assert found["."] == shown("base")["."]
    with raises(errors.FailedPrecondition):
        rebasing.remove("above")
    with mounted(rebasing.prepare("child", "name")) as path:
        assert (path / "kept").read_text() == "base"


def test_a_root_that_was_changed_stays_so_when_it_is_rebased(rebasing, layer, mounted, shown):
    layer("base", "", lambda path: path.chmod(0o750))
    with mounted(rebasing.prepare("apart")) as path:
        path.chmod(0o711)
    rebasing.commit("name", "apart", parent="base")
    assert stat.S_IMODE(shown("name")["."][0]) == 0o711


def test_rebases_that_cannot_be(rebasing, layer):
    layer("other")
    layer("base")
    rebasing.prepare("apart")
    rebasing.prepare("active")
    rebasing.view("view")
    rebasing.prepare("on base", "base")
    for key, parent, error in (
        ("apart", "missing", errors.NotFound),
        ("apart", "active", errors.FailedPrecondition),
        ("apart", "apart", errors.FailedPrecondition),
        ("apart", "view", errors.FailedPrecondition),
        ("on base", "other", errors.InvalidArgument),
        ("missing", "base", errors.NotFound),
    ):
        with raises(error):
            rebasing.commit("name", key, parent=parent)
    rebasing.commit("same", "on base", parent="base")
    rebasing.commit("name", "apart", parent="base")
    assert [rebasing.stat(name).parent for name in ("same", "name")] == ["base", "base"]


def test_who_cannot_rebase_says_so(snapshots, layer):
    layer("base")
    snapshots.prepare("key")
    snapshots.prepare("child", "base")
    snapshots.commit("name", "child", parent="base")
    if "rebase" not in snapshots.capabilities:
        with raises(errors.Unimplemented):
            snapshots.commit("other", "key", parent="base")
        assert snapshots.stat("key").kind == Kind.ACTIVE


def test_mounts_again(snapshots, layer):
    layer("second", layer("first"))
    for parent in ("", "first", "second"):
        for method in ("prepare", "view"):
            mounts = getattr(snapshots, method)(f"{method} {parent}", parent)
            assert list(snapshots.mounts(f"{method} {parent}")) == list(mounts)
    with raises(errors.FailedPrecondition):
        snapshots.mounts("first")


def test_what_was_written_stays_between_mounts(snapshots, mounted):
    with mounted(snapshots.prepare("key")) as path:
        (path / "file").write_text("content")
    with mounted(snapshots.mounts("key")) as path:
        assert (path / "file").read_text() == "content"


def test_siblings_do_not_see_each_other(snapshots, layer, mounted):
    layer("base", "", lambda path: write(path / "file", "base"))
    with mounted(snapshots.prepare("one", "base")) as one, mounted(snapshots.prepare("two", "base")) as two:
        (one / "file").write_text("one")
        assert (two / "file").read_text() == "base"
        (two / "file").unlink()
        assert (one / "file").read_text() == "one"
    with mounted(snapshots.view("view", "base")) as path:
        assert (path / "file").read_text() == "base"


def test_usage(snapshots, mounted, layer):
    with mounted(snapshots.prepare("key")) as path:
        empty = snapshots.usage("key")
        (path / "file").write_bytes(b"x" * 100_000)
        (path / "link").hardlink_to(path / "file")
        (path / "folder").mkdir()
        os.sync()
    full = snapshots.usage("key")
    assert full.inodes == empty.inodes + 2
    assert full.size >= empty.size + 100_000
    snapshots.commit("name", "key")
    assert snapshots.usage("name") == full


def test_every_kind_of_file(snapshots, layer, shown, mounted):
    def first(path):
        write(path / "file", "content", 0o4755)
        (path / "hard").hardlink_to(path / "file")
        (path / "soft").symlink_to("no/where")
        os.mkfifo(path / "fifo", 0o600)
        os.mknod(path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.setxattr(path / "file", "user.test", b"value")
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(path, os.O_PATH)
            try:
                listener.bind(f"/proc/self/fd/{here}/socket")
            finally:
                os.close(here)

    layer("upper", layer("lower", "", first), lambda path: write(path / "other"))
    found = shown("upper")
    assert found["soft"][3] == "no/where"
    assert stat.S_ISFIFO(found["fifo"][0])
    assert stat.S_ISSOCK(found["socket"][0])
    assert stat.S_IMODE(found["file"][0]) == 0o4755
    with mounted(snapshots.view("view", "upper")) as path:
        assert (path / "null").stat().st_rdev == os.makedev(1, 3)
        assert (path / "hard").stat().st_ino == (path / "file").stat().st_ino
        assert os.getxattr(path / "file", "user.test") == b"value"


def test_an_inode_is_stable_while_it_is_written(snapshots, layer, mounted):
    layer("base", "", lambda path: write(path / "file", "base"))
    with mounted(snapshots.prepare("key", "base")) as path:
        before = (path / "file").stat().st_ino
        (path / "file").write_text("changed")
        assert (path / "file").stat().st_ino == before
    with mounted(snapshots.mounts("key")) as path:
        assert (path / "file").stat().st_ino == before


def test_the_working_directory_has_a_path(snapshots, layer, mounted, monkeypatch):
    layer("base", "", lambda path: (path / "folder").mkdir())
    with mounted(snapshots.prepare("key", "base")) as path:
        monkeypatch.chdir(path / "folder")
        assert Path.cwd() == path / "folder"
        monkeypatch.undo()


def test_chmod(layer, shown):
    modes = {"file": 0o4711, "folder": 0o3770, "folder/inside": 0o600}

    def first(path):
        write(path / "file", "content", 0o600)
        write(path / "folder/inside", "content", 0o777)

    def change(path):
        for name, mode in modes.items():
            (path / name).chmod(mode)

    layer("three", layer("two", layer("one", "", first), change), lambda path: write(path / "other"))
    found = shown("three")
    assert {name: stat.S_IMODE(found[name][0]) for name in modes} == modes
    assert found["file"][3] == found["folder/inside"][3] == "content"
    assert stat.S_IMODE(shown("one")["file"][0]) == 0o600


def test_unix_sockets(snapshots, layer, mounted, monkeypatch):
    """One is spoken through where it was made; in layers above its name is left, and can be taken again."""

    def talk(path):
        monkeypatch.chdir(path)  # an address has room for 108 bytes
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
            listener.bind("socket")
            listener.listen()
            caller.connect("socket")
            other, _ = listener.accept()
            with other:
                caller.sendall(b"hello")
                assert other.recv(10) == b"hello"
        monkeypatch.undo()

    layer("base", "", talk)
    with mounted(snapshots.prepare("key", "base")) as path:
        monkeypatch.chdir(path)
        with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
            caller.connect("socket")
        monkeypatch.undo()
        (path / "socket").unlink()
        talk(path)


def test_removing_after_a_commit(snapshots, layer, mounted):
    """The key is gone with the commit; the name can be removed while it is still mounted where it was written."""
    layer("base", "", lambda path: write(path / "file", "base"))
    with mounted(snapshots.prepare("key", "base")) as path:
        (path / "mine").write_text("content")
        snapshots.commit("name", "key")
        with raises(errors.NotFound):
            snapshots.remove("key")
        snapshots.remove("name")
        snapshots.cleanup()
    with raises(errors.NotFound):
        snapshots.stat("name")
    snapshots.remove("base")
    assert list(snapshots.list()) == []


def test_removing_while_listing(snapshots):
    for number in range(5):
        snapshots.prepare(f"key {number}")
    for info in snapshots.list():
        snapshots.remove(info.name)
    assert list(snapshots.list()) == []


def test_removing_while_it_is_mounted(snapshots, layer, mounted):
    """Who still has it mounted keeps a directory; the snapshot is gone all the same."""
    layer("base", "", lambda path: write(path / "file", "base"))
    with mounted(snapshots.prepare("key", "base")):
        snapshots.remove("key")
        with raises(errors.NotFound):
            snapshots.stat("key")
        snapshots.prepare("key", "base")
    snapshots.cleanup()
    with mounted(snapshots.mounts("key")) as path:
        assert (path / "file").read_text() == "base"


def test_cleaning_up_leaves_what_there_is(snapshots, layer, mounted, shown):
    layer("base", "", lambda path: write(path / "file", "content"))
    with mounted(snapshots.prepare("key", "base")) as path:
        (path / "mine").write_text("content")
    before = shown("base")
    snapshots.cleanup()
    assert shown("base") == before
    with mounted(snapshots.mounts("key")) as path:
        assert {file.name for file in path.iterdir()} == {"file", "mine"}


def test_many_at_once(snapshots, layer):
    layer("base", "", lambda path: write(path / "file", "content"))
    failures = []

    def work(worker):
        try:
            for number in range(20):
                snapshots.prepare(f"{worker}-{number}", "base")
                if number % 2:
                    snapshots.remove(f"{worker}-{number}")
                else:
                    snapshots.commit(f"name {worker}-{number}", f"{worker}-{number}")
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(snapshots.list(["kind==committed,parent==base"]))) == 60
    with raises(errors.FailedPrecondition):
        snapshots.remove("base")
