"""Leases: what they keep, who may end them, and that writes under one that is gone fail."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.kit import context
from daemon.metadata.store import Store
from daemon.scoped.leases import Holds, ScopedLeases, made_up
from spec import errors
from spec.edges import expired
from spec.ports import Untracked
from spec.records import LeaseResource

DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path), sync=False)
    yield store
    store.close()


@pytest.fixture
def leases(store):
    return ScopedLeases(store, Untracked(), Holds(), "ns")


def test_life(leases):
    made = leases.create("l", {"a": "1"}).result()
    assert leases.get("l") == made
    with pytest.raises(errors.AlreadyExists, match="lease l in namespace ns already exists"):
        leases.create("l").result()
    leases.delete("l").result()
    for gone in (lambda: leases.get("l"), lambda: leases.delete("l").result(), lambda: leases.resources("l")):
        with pytest.raises(errors.NotFound, match="lease l in namespace ns not found"):
            gone()


def test_ids_are_made_up():
    assert len({made_up() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("filters", "found"),
    [([], ["a", "b"]), (["id==a"], ["a"]), (["labels.x"], ["b"]), (["labels.x==2", "id==a"], ["a"]), (["id==c"], [])],
)
def test_listing(leases, filters, found):
    leases.create("a").result()
    leases.create("b", {"x": "1"}).result()
    assert [lease.id for lease in leases.list(filters)] == found


@pytest.mark.parametrize(
    ("type", "error"),
    [
        ("content", None), ("ingests", None), ("images", None), ("snapshots/overlayfs", None),
        ("snapshots", errors.InvalidArgument), ("snapshots/", errors.InvalidArgument),
        ("snapshots/a/type1", errors.InvalidArgument), ("content/x", errors.InvalidArgument),
        ("leases", errors.Unimplemented), ("containers", errors.Unimplemented), ("", errors.Unimplemented),
    ],
)  # fmt: skip
def test_types_of_resources(leases, type, error):
    leases.create("l").result()
    resource = LeaseResource(id="x", type=type)
    if error:
        for call in (leases.add, leases.remove):
            with pytest.raises(error, match="lease resource type"):
                call("l", resource).result()
        return
    for _ in range(2):
        leases.add("l", resource).result()
    assert leases.resources("l") == [resource]
    for _ in range(2):
        leases.remove("l", resource).result()
    assert leases.resources("l") == []


def test_resources_of_a_lease_that_is_not_there(leases):
    for call in (leases.add, leases.remove):
        with pytest.raises(errors.NotFound, match="lease l"):
            call("l", LeaseResource(id="x", type="content")).result()


def test_a_lease_takes_its_list_along(leases):
    leases.create("l").result()
    leases.create("ll").result()
    for lease in ("l", "ll"):
        leases.add(lease, LeaseResource(id=DIGEST, type="content")).result()
    leases.delete("l").result()
    leases.create("l").result()
    assert leases.resources("l") == []
    assert leases.resources("ll") == [LeaseResource(id=DIGEST, type="content")]


def test_the_call_s_lease(leases):
    leases.keep("content", DIGEST)
    with context.using(lease="l"):
        with pytest.raises(errors.NotFound, match="lease l"):
            leases.keep("content", DIGEST)
        leases.create("l").result()
        leases.keep("content", DIGEST)
    assert leases.resources("l") == [LeaseResource(id=DIGEST, type="content")]


def test_one_that_is_held_stays(leases):
    leases.create("l").result()
    refused = pytest.raises(errors.FailedPrecondition, match="a connection holds it")
    with leases.held("l"), leases.held("l"), refused:
        leases.delete("l").result()
    leases.delete("l").result()
    with pytest.raises(errors.NotFound), leases.held("l"):
        raise AssertionError("not reached")


def test_a_passing_lease(leases):
    with leases.passing():
        (lease,) = leases.list()
        assert context.lease() == lease.id
        assert not expired(lease.labels, int(datetime.now(UTC).timestamp()) * 10**9)
        assert expired(lease.labels, int((datetime.now(UTC) + timedelta(days=2)).timestamp()) * 10**9)
        with leases.passing():  # the call's own is as good
            assert len(list(leases.list())) == 1
    assert list(leases.list()) == []


def test_labels_are_checked(leases):
    with pytest.raises(errors.InvalidArgument, match="label"):
        leases.create("l", {"k": "v" * 5000})
    assert list(leases.list()) == []
