"""What a call carries besides its request: namespace, lease, trace, peer, and the wish to go on. Knows no transport.

One variable holds one immutable value, so that entering a call is one set and one reset, and threads and tasks get it
by copying their context.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from spec import errors
from spec.ports import Cancel


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end of a unix socket (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


class Call(msgspec.Struct, frozen=True):
    """What is known of the call under way; empty outside of one."""

    namespace: str = ""
    lease: str = ""
    trace: str = ""
    peer: Peer | None = None
    cancel: Cancel | None = None


CALL: ContextVar[Call] = ContextVar("call", default=Call())  # noqa: B039 a Call is frozen


def namespace() -> str:
    """The call's namespace; FailedPrecondition when it has none."""
    name = CALL.get().namespace
    if not name:
        raise errors.FailedPrecondition("a namespace is required")
    return name


def namespace_or_empty() -> str:
    """The call's namespace, or "": for what works across namespaces."""
    return CALL.get().namespace


def lease() -> str:
    """Id of the lease that what the call makes shall belong to, or ""."""
    return CALL.get().lease


def trace() -> str:
    """The call's W3C traceparent, or ""."""
    return CALL.get().trace


def peer() -> Peer | None:
    """Who called; None when the daemon did itself."""
    return CALL.get().peer


def cancel() -> Cancel | None:
    """The token that says whether the call is still wanted, for work that is handed to threads."""
    return CALL.get().cancel


@contextmanager
def entered(call: Call) -> Iterator[None]:
    """Run the block as a part of `call`."""
    token = CALL.set(call)
    try:
        yield
    finally:
        CALL.reset(token)


@contextmanager
def using(namespace: str | None = None, lease: str | None = None) -> Iterator[None]:
    """Run the block with another namespace or lease; None keeps the present one."""
    now = CALL.get()
    call = msgspec.structs.replace(
        now,
        namespace=now.namespace if namespace is None else namespace,
        lease=now.lease if lease is None else lease,
    )
    with entered(call):
        yield
