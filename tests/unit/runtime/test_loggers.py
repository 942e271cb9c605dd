"""What a logger's URI means."""

from contextlib import ExitStack

import pytest

from daemon.runtime.loggers import open_loggers, used
from spec import errors
from spec.types import Stdio


def opened(**stdio):
    """Streams that lead to loggers, and (argv, its descriptors) of each."""
    with ExitStack() as stack:
        streams, found = open_loggers(Stdio(**stdio), stack, "create task t")
        return sorted(streams), [(logger.argv, sorted(logger.fds)) for logger in found]


@pytest.mark.parametrize(
    ("stdio", "expected"),
    [
        ({}, ([], [])),
        ({"stdout": "file:///x", "stderr": "/fifo"}, ([], [])),
        ({"stdout": "binary:///x", "terminal": True}, ([], [])),
        ({"stdout": "binary:///x"}, ([1], [(["/x"], [3])])),
        ({"stderr": "binary-v2:///x"}, ([2], [(["/x"], [4])])),
        ({"stdout": "binary:///x", "stderr": "binary:///x"}, ([1, 2], [(["/x"], [3, 4])])),
        ({"stdout": "binary:///x?a=b", "stderr": "binary:///y"}, ([1, 2], [(["/x", "a", "b"], [3]), (["/y"], [4])])),
        ({"stdout": "binary:///a%20b?k=v&k=w%26&-f="}, ([1], [(["/a b", "k", "v", "k", "w&", "-f", ""], [3])])),
    ],
)  # fmt: skip
def test_streams_and_programs(stdio, expected):
    assert opened(**stdio) == expected
    assert used(Stdio(**stdio)) is bool(expected[0])


@pytest.mark.parametrize("uri", ["binary://host/x", "binary://", "binary:///a%00b", "binary:///x?a=%00", "binary://[x"])
def test_no_program(uri):
    with pytest.raises(errors.InvalidArgument, match="create task t: logger"):
        opened(stdout=uri)
