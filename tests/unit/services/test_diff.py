"""The diff service: what it asks a namespace's differ for.

What differs do is in the contract suites, which the service passes with its client's proxy.
"""

import asyncio

import pytest

from daemon.kit import context
from daemon.kit.threads import Pool
from daemon.services.diff import Diff
from spec import errors
from spec.api import diff as api
from spec.oci.image import Descriptor
from spec.types import Mount, Usage

LAYER = Descriptor(media_type="type", digest="sha256:" + "1" * 64, size=7)
MOUNTS = (Mount(type="bind", source="/a"),)


class Differ:
    """Notes what it is asked."""

    descriptor = Descriptor(media_type="plain")
    usage = Usage(size=3, inodes=2)

    def __init__(self, implied=()):
        self.implied = implied
        self.asked = []

    def apply(self, *args):
        self.asked.append(("apply", *args))
        return self

    def sync(self, *args):
        self.asked.append(("sync", *args))

    def compare(self, *args):
        self.asked.append(("compare", *args))
        return LAYER


@pytest.fixture
def ask():
    """`ask(differ, work, **options)`: what `work(service)` answers, and whose differ it was."""
    with Pool("diff", 1) as pool:

        def ask(differ, work, **options):
            scopes = []

            def scoped(*scope):
                scopes.append(scope)
                return differ

            with context.using(namespace="ns"):
                return asyncio.run(work(Diff(scoped, pool, **options))), scopes

        yield ask


@pytest.mark.parametrize(
    ("asked", "configured", "synced"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_apply(ask, asked, configured, synced):
    differ = Differ()
    request = api.ApplyRequest(diff=LAYER, mounts=MOUNTS, payloads={"p": b"key"}, sync_fs=asked)
    reply, scopes = ask(differ, lambda service: service.apply(request), sync_fs=configured)
    assert reply == api.ApplyReply(applied=differ.descriptor, usage=differ.usage)
    assert scopes == [("ns", {"p": b"key"})]
    assert differ.asked == [("apply", LAYER, MOUNTS, None), *([("sync", MOUNTS)] if synced else [])]


def test_a_layer_that_the_caller_cannot_settle(ask):
    differ = Differ(implied=(b"d",))
    with pytest.raises(errors.FailedPrecondition, match="needs the layers below"):
        ask(differ, lambda service: service.apply(api.ApplyRequest(diff=LAYER, mounts=MOUNTS, sync_fs=True)))
    assert [what for what, *_ in differ.asked] == ["apply"]


def test_diff(ask):
    differ = Differ()
    request = api.DiffRequest(
        left=MOUNTS, right=MOUNTS * 2, media_type="t", ref="r", labels={"a": "b"}, source_date_epoch_s=0
    )
    reply, scopes = ask(differ, lambda service: service.diff(request))
    assert reply.diff == LAYER
    assert scopes == [("ns", {})]
    assert differ.asked == [("compare", MOUNTS, MOUNTS * 2, "t", "r", {"a": "b"}, 0, None)]
