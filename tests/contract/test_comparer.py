"""Conformance of comparers (spec.ports.Comparer): what of two trees becomes which layer, and that it makes the one of
the other. A further implementation is one row of IMPLEMENTATIONS."""

import contextlib
import gzip
import io
import os
import shutil
import socket
import stat
import tarfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace

from daemon.client import connect
from daemon.client.proxies import RemoteDiffer
from daemon.config import ProxyPlugin
from daemon.content.local import LocalContent
from daemon.diff.walking import WalkingDiffer
from daemon.events.exchange import Exchange
from daemon.kit import mounting
from daemon.kit.cancel import Token
from daemon.kit.dictkv import DictKV
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.proxy import ProxyDiffer
from daemon.scoped.content import ScopedContent
from daemon.services.diff import Diff
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import digest as digests
from spec import errors, names
from spec.api import diff as diff_api
from spec.oci.image import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from spec.records import Kind
from spec.types import Mount
from tests.echo import SECONDS, Server
from tests.root.test_trees import entries

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_raw, revision 2
KINDS = {
    OCI_LAYER: bytes,
    OCI_LAYER_GZIP: gzip.decompress,
    OCI_LAYER_ZSTD: lambda blob: zstandard.ZstdDecompressor().decompressobj().decompress(blob),
}


@contextmanager
def local(directory):
    content = LocalContent(str(directory / "content"), sync=False)
    yield content, WalkingDiffer(content)


@contextmanager
def scoped(directory):
    with contextlib.closing(Store(str(directory / "metadata"), sync=False)) as store:
        content = ScopedContent(LocalContent(str(directory / "content"), sync=False), store, Exchange(), "default")
        yield content, WalkingDiffer(content)


@contextmanager
def remote(directory):
    pool = Pool("diff", 2)
    with scoped(directory) as (content, differ):
        service = (diff_api.Diff, Diff(lambda namespace, payloads: differ, pool))
        with Server(extra=[service]) as server, connect(server.path, "default", timeout_s=SECONDS) as client:
            yield content, RemoteDiffer(client)
        pool.close()


@contextmanager
def proxied(directory):
    with scoped(directory) as (content, differ), Pool("diff", 2) as pool:
        service = (diff_api.Diff, Diff(lambda namespace, payloads: differ, pool))
        with Server(extra=[service]) as server:
            plugin = ProxyPlugin(type="diff", address=server.path, timeout_s=SECONDS)
            with contextlib.closing(ProxyDiffer("mine", plugin)) as proxy:
                yield content, proxy


# Each makes a context manager of a content store and a comparer into it, given a directory.
IMPLEMENTATIONS = {"local": local, "scoped": scoped, "remote": remote, "proxied": proxied}


@pytest.fixture(params=IMPLEMENTATIONS)
def both(request, tmp_path):
    with IMPLEMENTATIONS[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def content(both):
    return both[0]


@pytest.fixture
def comparer(both):
    return both[1]


@pytest.fixture(params=["overlay", "native"])
def trees(request, tmp_path):
    before = os.umask(0)
    made = {"overlay": Overlay, "native": Native}[request.param](str(tmp_path / "snapshots"), DictKV())
    yield Trees(made, tmp_path / "mounted")
    made.close()
    os.umask(before)


class Trees:
    """Snapshots as trees: changed through their mounts, looked at, compared."""

    def __init__(self, snapshotter, place):
        self.snapshotter = snapshotter
        self.place = place
        self.count = 0
        place.mkdir()

    def key(self):
        self.count += 1
        return f"key-{self.count}"

    @contextmanager
    def at(self, mounts):
        mounting.attach(mounts, str(self.place))
        try:
            yield self.place
        finally:
            mounting.detach(str(self.place))

    def changed(self, parent, step):
        """An active snapshot of `parent` with the step done."""
        key = self.key()
        with self.at(self.snapshotter.prepare(key, parent)) as root:
            step(root)
        return key

    def committed(self, parent, step):
        name = self.key()
        self.snapshotter.commit(name, self.changed(parent, step))
        return name

    @contextmanager
    def mounts(self, key):
        """(lower, upper): of the snapshot's parent and of itself."""
        info = self.snapshotter.stat(key)
        views = [self.key(), self.key()]
        lower = self.snapshotter.view(views[0], info.parent)
        upper = self.snapshotter.mounts(key) if info.kind == Kind.ACTIVE else self.snapshotter.view(views[1], key)
        try:
            yield lower, upper
        finally:
            for view in views:
                with contextlib.suppress(errors.NotFound):
                    self.snapshotter.remove(view)

    def kept(self, key):
        """What a layer keeps of a tree: all but the root, parts of seconds, sockets, and what no layer has."""
        found = {}
        view = self.key()
        with self.at(self.snapshotter.view(view, key)) as root:
            for name, (mode, uid, gid, rdev, mtime_ns, body, xattrs, first) in entries(root).items():
                if name != "." and not stat.S_ISSOCK(mode):
                    kept = {key: value for key, value in xattrs.items() if key == "security.capability"}
                    found[name] = (mode, uid, gid, rdev, mtime_ns // 10**9, body, kept, first)
        self.snapshotter.remove(view)
        return found


def plain(content, descriptor):
    with content.reader(descriptor.digest) as blob:
        assert blob.size == descriptor.size
        return KINDS[descriptor.media_type](blob.read())


def listed(archive):
    """[name, mode or what it is]: of directories with a slash, of links with their target."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            assert (member.uname, member.gname) == ("", "")
            name = member.name + ("/" if member.isdir() else f" => {member.linkname}" if member.islnk() else "")
            if member.name.rpartition("/")[2].startswith(".wh."):
                assert (member.type, member.size, member.mtime) == (tarfile.REGTYPE, 0, 0)
            elif member.isdir() and member.mode != 0o755:
                name += f" {member.mode:o}"
            found.append(name)
    return found


# Steps


def do(*steps):
    def all_of_them(root):
        for step in steps:
            step(root)

    return all_of_them


def folder(name, mode=0o755):
    return lambda root: os.mkdir(root / name, mode)


def file(name, body=b"body", mode=0o644):
    def write(root):
        (root / name).write_bytes(body)
        (root / name).chmod(mode)

    return write


def link(source, name):
    return lambda root: os.link(root / source, root / name, follow_symlinks=False)


def symlink(target, name):
    return lambda root: os.symlink(target, root / name)


def gone(name):
    def remove(root):
        place = Path(root / name)
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()

    return remove


def mode(name, bits):
    return lambda root: os.chmod(root / name, bits)


def owner(name, uid, gid):
    return lambda root: os.chown(root / name, uid, gid, follow_symlinks=False)


def node(name, kind, *device):
    return lambda root: os.mknod(root / name, 0o600 | kind, os.makedev(*device) if device else 0)


def times(name, mtime_ns):
    return lambda root: os.utime(root / name, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def capability(name):
    return lambda root: os.setxattr(root / name, "security.capability", CAPABILITY)


def listening(name):
    def bind(root):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(root / name))

    return bind


def nothing(root):
    pass


LINKED = do(
    *(folder(f"d{number}") for number in range(1, 7)),
    *(file(f"d{number}/f1", b"link me") for number in (1, 2, 4, 5)),
    *(link("d1/f1", "d6/l1"), link("d5/f1", "d6/l2")),
)

# case: a tree, what is done to it, the layer's entries in order (containerd, DiffTar)
LAYERS = {
    "nothing": (do(folder("d1"), file("d1/f")), nothing, []),
    "parents come along": (
        do(folder("d1"), folder("d2", 0o770)),
        do(folder("d1/d", 0o700), file("d2/f")),
        ["d1/", "d1/d/ 700", "d2/ 770", "d2/f"],
    ),
    "parents of links come along": (
        LINKED,
        do(link("d1/f1", "d2/l1"), link("d4/f1", "d3/l1"), gone("d6/l1"), gone("d6/l2")),
        ["d2/", "d2/l1", "d1/", "d1/f1 => d2/l1", "d3/", "d3/l1", "d4/", "d4/f1 => d3/l1",
         "d6/", "d6/.wh.l1", "d6/.wh.l2"],
    ),
    "a directory's mode": (
        do(folder("d1"), folder("d2", 0o770)),
        do(mode("d1", 0o777), folder("d1/d", 0o700), file("d2/f")),
        ["d1/ 777", "d1/d/ 700", "d2/ 770", "d2/f"],
    ),
    "links in a changed directory": (
        do(folder("d1"), file("d1/f1"), folder("d2"), folder("d3"), file("d3/f1"), folder("d4")),
        do(mode("d1", 0o777), link("d1/f1", "d2/l1"), mode("d4", 0o777), link("d3/f1", "d4/l1")),
        ["d1/ 777", "d2/", "d2/l1", "d1/f1 => d2/l1", "d4/ 777", "d4/l1", "d3/", "d3/f1 => d4/l1"],
    ),
    "whiteouts bring parents": (
        do(*(folder(f"d{number}") for number in range(1, 6)), *(file(f"d{number}/f1") for number in range(1, 6)),
           file("d2/f2")),
        do(gone("d1/f1"), gone("d2/f1"), mode("d2/f2", 0o777), gone("d3/f1"), file("d3/f2"), gone("d4/f1"),
           file("d4/f0"), gone("d5")),
        ["d1/", "d1/.wh.f1", "d2/", "d2/.wh.f1", "d2/f2", "d3/", "d3/.wh.f1", "d3/f2", "d4/", "d4/f0", "d4/.wh.f1",
         ".wh.d5"],
    ),
    "one whiteout a tree": (
        do(folder("d1"), file("d1/f1"), folder("d2"), folder("d2/d"), file("d2/d/f")),
        do(gone("d1"), gone("d2"), folder("d3")),
        [".wh.d1", ".wh.d2", "d3/"],
    ),
    "sockets are left out": (file("f1"), do(file("f2"), listening("s0"), file("f3")), ["f2", "f3"]),
    # Of ours.
    "a directory becomes a file": (do(folder("d"), file("d/f")), do(gone("d"), file("d")), ["d"]),
    "a file becomes a directory": (file("d"), do(gone("d"), folder("d"), file("d/f")), ["d/", "d/f"]),
    "a directory made anew": (
        do(folder("d"), folder("d/e"), file("d/e/gone"), file("d/e/f", b"1"), file("d/gone")),
        do(gone("d"), folder("d"), folder("d/e"), file("d/e/f", b"22")),
        ["d/", "d/e/", "d/e/f", "d/e/.wh.gone", "d/.wh.gone"],
    ),
    "written and taken back": (do(folder("d"), file("d/f")), do(file("d/g"), gone("d/g")), []),
    "the order is of names": (
        do(file("a"), file("b"), file("z")),
        do(folder("d"), file("d/f"), file("d-"), file("d."), gone("b"), file("\N{SNOWMAN}"), file("c")),
        [".wh.b", "c", "d/", "d/f", "d-", "d.", "\N{SNOWMAN}"],
    ),
    "what a change is": (
        do(*(file(f"f{number}") for number in range(6)), symlink("a", "l0"), symlink("a", "l1"),
           node("n", stat.S_IFCHR, 1, 3)),
        do(owner("f0", 1, 0), owner("f1", 0, 1), mode("f2", 0o600), times("f3", 1), capability("f4"), gone("l0"),
           symlink("b", "l0"), gone("n"), node("n", stat.S_IFCHR, 1, 5)),
        ["f0", "f1", "f2", "f3", "f4", "l0", "n"],
    ),
    "the same bytes at a time cut off": (
        do(file("f", b"one"), times("f", 10**9), file("g", b"one"), times("g", 10**9)),
        do(file("f", b"two"), times("f", 10**9), file("g", b"one"), times("g", 10**9)),
        ["f"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("state", ["active", "committed"])
def test_a_layer_has_what_is_other_in_order(trees, content, comparer, case, state):
    before, step, expected = LAYERS[case]
    below = trees.committed("", before)
    key = trees.changed(below, step) if state == "active" else trees.committed(below, step)
    with trees.mounts(key) as (lower, upper):
        made = comparer.compare(lower, upper)
    assert made.media_type == OCI_LAYER_GZIP
    assert listed(plain(content, made)) == expected


@pytest.mark.parametrize("case", LAYERS)
def test_it_does_not_matter_how_the_trees_are_mounted(trees, content, comparer, case):
    """As binds, which say nothing of each other, both are walked; the overlay's directory alone gives the same."""
    before, step, _ = LAYERS[case]
    key = trees.committed(trees.committed("", before), step)
    with trees.mounts(key) as (lower, upper):
        made = comparer.compare(lower, upper, OCI_LAYER)
        with contextlib.ExitStack() as stack:
            paths = []
            for number, mounts in enumerate((lower, upper)):
                path = trees.place.with_name(f"place-{number}")
                path.mkdir()
                mounting.attach(mounts, str(path))
                stack.callback(mounting.detach, str(path))
                paths.append(Mount(type="bind", source=str(path), options=("ro", "rbind")))
            again = comparer.compare(paths[:1], paths[1:], OCI_LAYER)
    assert again == made


# case: what is done, step by step (containerd, FSSuite)
LIVES = {
    "basic": [
        do(folder("etc"), file("etc/hosts", b"mydomain 10.0.0.1"), file("etc/profile", b"PATH=/usr/bin"), folder("lib"),
           file("lib/libnothing.so.2", b"0" * 300_000), symlink("libnothing.so.2", "lib/libnothing.so"),
           folder("home"), folder("home/user", 0o700)),
        do(file("etc/hosts", b"mydomain 10.0.0.120"), folder("root", 0o700), file("root/rc", b"PATH=/usr/sbin", 0o600),
           node("root/pipe", stat.S_IFIFO), owner("root/rc", 100, 200)),
        do(file("home/user/.vim", b"set ai"), node("home/null", stat.S_IFCHR, 1, 3), capability("lib/libnothing.so.2")),
        do(gone("etc/profile"), gone("root/pipe"), mode("home/user", 0o1777), symlink("/etc/hosts", "etc/link")),
        do(gone("lib"), folder("lib"), file("lib/libnothing.so.2", b"new"), gone("home/null")),
    ],
    "deletion": [
        do(folder("test"), folder("test/dir"), folder("lib"), file("lib/hidden", b"please hide"), file("lib/shown")),
        do(gone("lib"), folder("lib"), file("lib/shown", b"hello")),
        do(gone("test"), gone("lib/shown")),
    ],
    "update": [
        do(folder("etc"), file("etc/hosts", b"10.0.0.1"), file("etc/profile", b"1" * 100), file("etc/mode", b"m")),
        do(file("etc/hosts", b"10.0.0.120"), gone("etc/profile"), file("etc/profile", b"2"), mode("etc/mode", 0o4711)),
    ],
    "directory permissions": [
        do(folder("d1", 0o700), folder("d2", 0o751), folder("d3", 0o1777)),
        do(file("d1/f"), folder("d1/d"), file("d2/f"), file("d3/f"), owner("d2", 5, 6)),
    ],
    "parents' permissions": [
        do(folder("d1"), folder("d1/d"), folder("d2", 0o700), folder("d2/d", 0o711), file("d2/d/f")),
        do(mode("d1", 0o2777), file("d1/d/f"), gone("d2/d/f"), mode("d2", 0o750)),
    ],
    "links unmodified": [
        do(folder("d1"), folder("d2"), file("d1/f")),
        do(link("d1/f", "d2/f"), mode("d2", 0o700)),
        do(link("d1/f", "d2/g"), file("d1/g")),
    ],
    "links before unmodified": [
        do(folder("a"), folder("m"), file("m/f")),
        do(link("m/f", "a/f")),
    ],
    "links before modified": [
        do(folder("a"), folder("m"), file("m/f"), link("m/f", "m/g")),
        do(link("m/f", "a/f"), mode("m/f", 0o600)),
        do(file("m/f", b"new", 0o600), gone("a/f")),
    ],
    "links to all kinds": [
        do(folder("d"), symlink("nowhere", "d/l"), node("d/p", stat.S_IFIFO), node("d/b", stat.S_IFBLK, 7, 300)),
        do(link("d/l", "l"), link("d/p", "p"), link("d/b", "b")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("life", LIVES)
def test_layers_make_the_same_tree_again(trees, content, comparer, life):
    applier = WalkingDiffer(content)
    original = copy = ""
    for step in LIVES[life]:
        original = trees.committed(original, step)
        with trees.mounts(original) as (lower, upper):
            made = comparer.compare(lower, upper)
        mounts = trees.snapshotter.prepare(key := trees.key(), copy)
        applied = applier.apply(made, mounts)
        trees.snapshotter.commit(copy := trees.key(), key)
        assert applied.descriptor.digest == digests.of(plain(content, made))
        assert trees.kept(copy) == trees.kept(original)


def test_without_a_lower_tree_it_is_the_whole(trees, content, comparer):
    key = trees.committed(trees.committed("", do(folder("d"), file("d/f"))), file("d/g"))
    with trees.mounts(key) as (_, upper):
        assert listed(plain(content, comparer.compare([], upper))) == ["d/", "d/f", "d/g"]


def test_between_trees_that_are_not_parent_and_child(trees, content, comparer):
    base = trees.committed("", do(folder("d"), file("d/f")))
    top = trees.committed(trees.committed(base, do(file("d/g"), gone("d/f"))), do(file("d/h")))
    with trees.mounts(base) as (_, lower), trees.mounts(top) as (_, upper):
        assert listed(plain(content, comparer.compare(lower, upper))) == ["d/", "d/.wh.f", "d/g", "d/h"]
        assert listed(plain(content, comparer.compare(upper, lower))) == ["d/", "d/f", "d/.wh.g", "d/.wh.h"]


def test_what_only_an_overlay_can_show(tmp_path, content, comparer):
    """A directory that was moved, and a file of which attributes alone were copied up: the trees are walked."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    do(folder("d"), folder("d/e"), file("d/e/f", b"1" * 100_000), file("m", b"2" * 1000))(tmp_path / "lower")
    options = [f"lowerdir={tmp_path / 'lower'}", f"upperdir={tmp_path / 'upper'}", f"workdir={tmp_path / 'work'}"]
    overlay = Mount(type="overlay", source="overlay", options=[*options, "redirect_dir=on", "metacopy=on"])
    with Trees(None, tmp_path / "place").at([overlay]) as root:
        (root / "d/e").rename(root / "d/moved")
        mode("m", 0o600)(root)
        assert "trusted.overlay.metacopy" in os.listxattr(tmp_path / "upper/m")
        assert "trusted.overlay.redirect" in os.listxattr(tmp_path / "upper/d/moved")
    lower = Mount(type="bind", source=str(tmp_path / "lower"), options=("ro", "rbind"))
    archive = plain(content, comparer.compare([lower], [overlay], OCI_LAYER_GZIP))
    assert listed(archive) == ["d/", "d/.wh.e", "d/moved/", "d/moved/f", "m"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.extractfile("m").read() == b"2" * 1000
        assert tar.extractfile("d/moved/f").read() == b"1" * 100_000


@pytest.mark.parametrize("media_type", KINDS)
def test_thirty_times_the_same_blob(trees, content, comparer, media_type):
    """And no time is later than SOURCE_DATE_EPOCH; earlier ones stay, whiteouts have none."""
    below = trees.committed("", do(file("gone"), folder("d")))
    key = trees.changed(
        below,
        do(gone("gone"), file("d/old"), times("d/old", 5 * 10**9 + 7), file("d/new", os.urandom(3_000_000))),
    )
    with trees.mounts(key) as (lower, upper):
        made = {comparer.compare(lower, upper, media_type, source_date_epoch_s=1000).digest for _ in range(30)}
        other = comparer.compare(lower, upper, media_type)
    assert len(made) == 1
    assert other.digest not in made
    with content.reader(made.pop()) as blob, tarfile.open(fileobj=io.BytesIO(KINDS[media_type](blob.read()))) as tar:
        assert {member.name: member.mtime for member in tar} == {"d": 1000, "d/new": 1000, "d/old": 5, ".wh.gone": 0}


@pytest.mark.parametrize("media_type", [DOCKER_LAYER_GZIP, "application/octet-stream", OCI_LAYER + "+xz"])
def test_media_types_that_are_not_written(trees, content, comparer, media_type):
    key = trees.changed("", file("f"))
    with trees.mounts(key) as (lower, upper), pytest.raises(errors.Unimplemented, match=r"media type"):
        comparer.compare(lower, upper, media_type)
    assert not content.statuses()


def test_labels_and_the_diff_id(trees, content, comparer):
    key = trees.changed("", file("f"))
    with trees.mounts(key) as (lower, upper):
        made = comparer.compare(lower, upper, labels={"a": "b"})
        diff_id = digests.of(plain(content, made))
        labelled = not isinstance(content, LocalContent)
        if labelled:
            assert content.info(made.digest).labels == {"a": "b", names.UNCOMPRESSED: diff_id}
            content.update(replace(content.info(made.digest), labels={"a": "b"}), ["labels"])
        assert comparer.compare(lower, upper) == made
        if labelled:
            assert content.info(made.digest).labels == {"a": "b", names.UNCOMPRESSED: diff_id}


def test_refs(trees, content, comparer):
    key = trees.changed("", file("f"))
    with content.writer("mine") as writer:
        writer.write(b"of another time")
    with trees.mounts(key) as (lower, upper):
        made = comparer.compare(lower, upper, OCI_LAYER, ref="mine")
        assert listed(plain(content, made)) == ["f"]
        assert not content.statuses()
        with content.writer("mine"), pytest.raises(errors.Unavailable):
            comparer.compare(lower, upper, OCI_LAYER, ref="mine")


def test_a_name_that_no_layer_can_hold(trees, content, comparer):
    below = trees.committed("", nothing)
    key = trees.changed(below, do(folder("d"), file("d/.wh.f"), file("a", b"1" * 3_000_000)))
    with trees.mounts(key) as (lower, upper):
        with pytest.raises(errors.FailedPrecondition, match=r"'d/\.wh\.f'"):
            comparer.compare(lower, upper)
        assert not content.statuses()  # of an ingest of its own nothing is left
        with pytest.raises(errors.FailedPrecondition):
            comparer.compare(lower, upper, ref="mine")
        assert [status.ref for status in content.statuses()] == ["mine"]


def test_mounts_that_are_not_there(tmp_path, content, comparer):
    nowhere = Mount(type="bind", source=str(tmp_path / "nowhere"))
    with pytest.raises(errors.NotFound, match="nowhere"):
        comparer.compare([nowhere], [nowhere])
    assert not content.statuses()


def test_cancelled(trees, content, comparer):
    token = Token()
    token.cancel("enough")
    key = trees.changed("", file("f"))
    with trees.mounts(key) as (lower, upper), pytest.raises(errors.Canceled, match="enough"):
        comparer.compare(lower, upper, cancel=token)
    assert not content.statuses()


def test_the_trees_stay_as_they_are(trees, content, comparer):
    """And can be written to beside: the active one is mounted by whoever uses it."""
    below = trees.committed("", do(folder("d"), file("d/f")))
    key = trees.changed(below, file("d/g"))
    with trees.at(trees.snapshotter.mounts(key)) as root, trees.mounts(key) as (lower, upper):
        before = entries(root)
        comparer.compare(lower, upper)
        assert entries(root) == before
        file("d/h")(root)
        assert listed(plain(content, comparer.compare(lower, upper))) == ["d/", "d/g", "d/h"]
