"""Snapshots on the wire: blocks, masks, and the snapshotter that must be named. What every one does is in the contract
suite."""

import asyncio

import pytest

from daemon.kit import context
from daemon.kit.dictkv import DictKV
from daemon.kit.threads import Pool
from daemon.services.snapshots import Snapshots
from daemon.snapshots.native import Native
from spec import errors
from spec.api import snapshots as api
from spec.records import Kind, SnapshotInfo


@pytest.fixture
def service(tmp_path):
    raw = Native(str(tmp_path), DictKV())
    with Pool("snapshots", 2) as pool, context.using(namespace="ns"):
        yield Snapshots(lambda namespace, name: raw, pool)
    raw.close()


def done(work):
    async def main():
        return await work

    return asyncio.run(main())


def listed(service, *filters):
    async def main():
        request = api.ListRequest(snapshotter="native", filters=filters)
        return [len(reply.info) async for reply in service.list(request)]

    return asyncio.run(main())


def prepare(service, key, parent="", **more):
    return done(service.prepare(api.PrepareRequest(snapshotter="native", key=key, parent=parent, **more)))


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("prepare", api.PrepareRequest(snapshotter="", key="k")),
        ("view", api.ViewRequest(snapshotter="", key="k")),
        ("commit", api.CommitRequest(snapshotter="", name="n", key="k")),
        ("remove", api.RemoveRequest(snapshotter="", key="k")),
        ("update", api.UpdateRequest(snapshotter="", info=SnapshotInfo(name="k"))),
        ("usage", api.UsageRequest(snapshotter="", key="k")),
        ("cleanup", api.CleanupRequest(snapshotter="")),
    ],
)
def test_a_snapshotter_must_be_named(service, method, request_):
    with pytest.raises(errors.InvalidArgument, match="snapshotter"):
        done(getattr(service, method)(request_))


def test_a_list_comes_in_blocks(service):
    assert listed(service) == []
    for number in range(101):
        prepare(service, f"k{number:03}", labels={"even": "yes"} if number % 2 == 0 else {})
    assert listed(service) == [100, 1]
    assert listed(service, "labels.even==yes") == [51]
    assert listed(service, "name==k001", "name==k002", "kind==view") == [2]
    with pytest.raises(errors.InvalidArgument):
        listed(service, "kind=")


def test_a_life(service):
    prepare(service, "k")
    done(service.commit(api.CommitRequest(snapshotter="native", name="n", key="k", labels={"a": "1"})))
    view = api.ViewRequest(snapshotter="native", key="v", parent="n", labels={"a": "1", "b": "2"})
    mounts = done(service.view(view)).mounts
    assert done(service.mounts(api.MountsRequest(snapshotter="native", key="v"))).mounts == mounts
    assert done(service.stat(api.StatRequest(snapshotter="native", key="v"))).kind == Kind.VIEW
    info = SnapshotInfo(name="v", labels={"a": "9", "b": "9"})
    changed = done(service.update(api.UpdateRequest(snapshotter="native", info=info, fields=["labels.a"])))
    assert changed.labels == {"a": "9", "b": "2"}
    assert done(service.usage(api.UsageRequest(snapshotter="native", key="n"))).inodes == 1
    with pytest.raises(errors.FailedPrecondition):
        done(service.remove(api.RemoveRequest(snapshotter="native", key="n")))
    with pytest.raises(errors.InvalidArgument, match="v is not committed"):
        prepare(service, "other", "v")
    for key in ("v", "n"):
        done(service.remove(api.RemoveRequest(snapshotter="native", key=key)))
    done(service.cleanup(api.CleanupRequest(snapshotter="native")))
    assert listed(service) == []
