import contextvars

import pytest

from daemon.kit import context
from spec import errors


def test_outside_of_a_call_there_is_nothing():
    with pytest.raises(errors.FailedPrecondition):
        context.namespace()
    assert (context.namespace_or_empty(), context.lease(), context.trace()) == ("", "", "")
    assert context.peer() is None
    assert context.cancel() is None


def test_call_is_entered_and_left():
    peer = context.Peer(1, 2, 3)
    with context.entered(context.Call(namespace="n", lease="l", trace="t", peer=peer)):
        assert (context.namespace(), context.lease(), context.trace()) == ("n", "l", "t")
        assert context.peer() == peer
        with context.using(namespace="other"):
            assert (context.namespace(), context.lease()) == ("other", "l")
        with context.using(lease=""):
            assert (context.namespace(), context.lease()) == ("n", "")
    assert context.namespace_or_empty() == ""


def test_copy_of_the_context_carries_it():
    with context.using(namespace="n"):
        copy = contextvars.copy_context()
    assert copy.run(context.namespace) == "n"
