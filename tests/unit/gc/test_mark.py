"""What lives: roots, references, back references, flat leases, expiry, conditions, namespaces."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.gc.mark import Graph
from spec import edges, names
from spec.oci.image import Descriptor
from spec.records import Container, ContentInfo, Image, RuntimeRef, SnapshotInfo

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9


def at(**delta):
    return (NOW + timedelta(**delta)).isoformat()


def blob(name, namespace="ns", **labels):
    return edges.of_content(namespace, ContentInfo(digest=name, labels=spelled(labels)))


def snapshot(name, parent="", namespace="ns", **labels):
    return edges.of_snapshot(namespace, "overlayfs", SnapshotInfo(name=name, parent=parent, labels=spelled(labels)))


def image(name, target, **labels):
    record = Image(name=name, target=Descriptor(media_type="m", digest=target, size=1), labels=spelled(labels))
    return edges.of_image("ns", record, NOW_NS)


def container(id, key="", **labels):
    record = Container(
        id=id, runtime=RuntimeRef(name="runc"), snapshotter="overlayfs", snapshot_key=key, labels=spelled(labels)
    )
    return edges.of_container("ns", record)


def lease(id, *refs, flat=False, root=True):
    return edges.Resource(("leases", "ns", id), root=root, flat=flat, refs=refs)


def spelled(labels):
    """`ref_content__x` is containerd.io/gc.ref.content.x; `_slash_` is a slash."""
    return {
        f"containerd.io/gc.{key.replace('_slash_', '/').replace('__', '.').replace('_', '.')}": value
        for key, value in labels.items()
    }


def living(*resources):
    graph = Graph(resources, NOW.timestamp())
    live = graph.live()
    return sorted({node[2] for node in (resource.node for resource in resources) if node in live})


C, I, S = ("content", "ns"), ("images", "ns"), ("snapshots/overlayfs", "ns")  # noqa: E741

CASES = {
    "nothing keeps it": ([blob("a"), snapshot("s")], []),
    "roots by label": ([blob("a", root=""), snapshot("s", root="2026-01-01T00:00:00Z")], ["a", "s"]),
    "an image is a root, but not by the label": ([image("i", "a"), blob("a"), blob("b")], ["a", "i"]),
    "an image that has expired": ([image("i", "a", expire=at(hours=-1)), blob("a")], []),
    "an image that has not": ([image("i", "a", expire=at(hours=1)), blob("a")], ["a", "i"]),
    "an expiry that is no time": ([image("i", "a", expire="soon"), blob("a")], ["a", "i"]),
    "an expired image in a lease": (
        [image("i", "a", expire=at(hours=-1)), blob("a"), lease("l", (*I, "i"))], ["a", "i", "l"],
    ),
    "a container keeps its snapshot and its parents": (
        [container("c", "s"), snapshot("s", "p"), snapshot("p"), snapshot("q")], ["c", "p", "s"],
    ),
    "references by label": (
        [blob("a", root="", ref_content="b", ref_content__x="c", ref_content_slash_y="d", ref_snapshot__overlayfs="s"),
         blob("b"), blob("c"), blob("d"), blob("e"), snapshot("s")],
        ["a", "b", "c", "d", "s"],
    ),
    "a suffix without a separator means nothing": (
        [edges.of_content("ns", ContentInfo(digest="a", labels={
            names.GC_ROOT: "", f"{names.GC_REF_CONTENT}x": "b", f"{names.GC_REF_IMAGE}y": "i"})), blob("b")],
        ["a"],
    ),
    "a snapshot reference with a name": (
        [container("c", ref_snapshot__overlayfs_slash_x="s", ref_image__y="i"), snapshot("s"),
         image("i", "a", expire=at(hours=-1)), blob("a")],
        ["a", "c", "i", "s"],
    ),
    "back references": (
        [container("c", "s"), snapshot("s"), image("i", "t"), blob("t"), blob("a", bref_container="c"),
         blob("b", bref_snapshot__overlayfs="s"), blob("d", bref_image="i"), blob("e", bref_content="t"),
         blob("f", bref_content="gone")],
        ["a", "b", "c", "d", "e", "i", "s", "t"],
    ),
    "a flat lease keeps what it lists, a snapshot's parents, an image's target": (
        [lease("l", (*C, "a"), (*S, "s"), (*I, "i"), flat=True), blob("a", ref_content="b"), blob("b"),
         snapshot("s", "p", ref_content="b"), snapshot("p"), image("i", "t", expire=at(hours=-1)),
         blob("t", ref_content="b")],
        ["a", "i", "l", "p", "s", "t"],
    ),
    "flat and kept otherwise": (
        [lease("l", (*C, "a"), flat=True), image("i", "a"), blob("a", ref_content="b"), blob("b")],
        ["a", "b", "i", "l"],
    ),
    "a lease that has ended": ([lease("l", (*C, "a"), root=False), blob("a")], []),
    "conditions: used lately": (
        [blob("a", cond_snapshot__overlayfs="usedat<2h|s"), blob("b", cond_snapshot__overlayfs="usedat>2h|s"),
         blob("c", cond_snapshot_slash_overlayfs="usedat>9h,usedat<90m|s"), blob("d", cond_snapshot__overlayfs="x|s"),
         snapshot("s", root="", **{"cond_value-usedat": at(hours=-1)})],
        ["a", "c", "s"],
    ),
    "a ring nobody holds": ([blob("a", ref_content="b"), blob("b", ref_content="a")], []),
    "duplicates": ([blob("a", root="", ref_content__x="b", ref_content__y="b"), blob("b")], ["a", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_living(name):
    resources, expected = CASES[name]
    assert living(*resources) == expected


def test_namespaces_never_mix():
    resources = [blob("a", root="", ref_content="b"), blob("b", namespace="other"), blob("b")]
    graph = Graph(resources, 0)
    assert ("content", "ns", "b") in graph.live()
    assert ("content", "other", "b") not in graph.live()


def test_holders_are_shortest_ways_from_roots():
    resources = [
        image("i", "m"), blob("m", ref_content="l"), blob("l"), lease("z", (*C, "l")), container("c", ref_content="m"),
    ]  # fmt: skip
    ways = Graph(resources, 0).holders((*C, "l"))
    assert [[node[2] for node in way] for way in ways] == [["z", "l"], ["c", "m", "l"], ["i", "m", "l"]]
    assert Graph([blob("l")], 0).holders((*C, "l")) == []
