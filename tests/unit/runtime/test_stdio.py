"""Where streams go: descriptors, FIFOs and files."""

import os
import stat
from contextlib import ExitStack

import pytest

from daemon.runtime.stdio import heard, open_streams, split
from spec import errors
from spec.types import Stdio


def opened(stdio, fds=()):
    """Streams, as (mode of access, blocking, what it is) by number."""
    with ExitStack() as stack:
        streams = open_streams(stdio, fds, stack, "create task t")
        return {number: (os.get_blocking(fd), os.readlink(f"/proc/self/fd/{fd}")) for number, fd in streams.items()}


def test_nothing_is_dev_null_and_a_terminal_is_none_of_this():
    assert opened(Stdio()) == {}
    assert opened(Stdio(stdin="bogus://", terminal=True)) == {}


def test_descriptors_are_lent():
    read, write = os.pipe()
    try:
        streams = opened(Stdio(stdout="fd://1", stderr="fd://1"), (read, write))
        assert set(streams) == {1, 2}
        os.write(write, b"still open")
    finally:
        os.close(read)
        os.close(write)


def test_fifos_wait_for_nobody(tmp_path):
    path = tmp_path / "f"
    os.mkfifo(path)
    streams = opened(Stdio(stdin=str(path), stdout=f"fifo://{path}", stderr=f"fifo://{path}"))
    assert streams == dict.fromkeys(range(3), (True, str(path)))


def test_a_reader_of_a_fifo_sees_its_end(tmp_path):
    path = tmp_path / "f"
    os.mkfifo(path)
    with ExitStack() as stack:
        fd = open_streams(Stdio(stdin=str(path)), (), stack, "")[0]
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(writer, b"x")
        os.close(writer)
        assert (os.read(fd, 9), os.read(fd, 9)) == (b"x", b"")


def test_files_are_made_and_appended_to(tmp_path):
    old = os.umask(0o077)
    os.umask(old)
    path = tmp_path / "a b/c/log"
    uri = f"file://{tmp_path}/a%20b/c/log"
    for _ in range(2):
        with ExitStack() as stack:
            streams = open_streams(Stdio(stdout=uri, stderr=uri), (), stack, "")
            os.write(streams[1], b"one\n")
            os.write(streams[2], b"two\n")
    assert path.read_text() == "one\ntwo\none\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~old


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("fd://2", errors.InvalidArgument),
        ("fd://-1", errors.InvalidArgument),
        ("fd://x", errors.InvalidArgument),
        ("fd://", errors.InvalidArgument),
        ("fd:///1", errors.InvalidArgument),
        ("fd://99999999999", errors.InvalidArgument),
        ("relative", errors.InvalidArgument),
        ("npipe:////./pipe/x", errors.InvalidArgument),
        ("fifo://host/x", errors.InvalidArgument),
        ("file://relative/x", errors.InvalidArgument),
        ("fifo:///a%00b", errors.InvalidArgument),
        ("http://[x", errors.InvalidArgument),
        ("/no/such/fifo", errors.NotFound),
        ("fifo:///no/such/fifo", errors.NotFound),
    ],
)
def test_what_cannot_be_opened(uri, error):
    read, write = os.pipe()
    try:
        with pytest.raises(error, match="create task t: open stdout"):
            opened(Stdio(stdin="fd://0", stdout=uri), (read, write))
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("uri", ["file:///x", "binary:///x?a=b", "binary-v2:///x"])
def test_a_log_is_no_input(uri):
    with pytest.raises(errors.InvalidArgument, match="output only"):
        opened(Stdio(stdin=uri))


def test_loggers_are_not_for_us():
    assert opened(Stdio(stdout="binary:///nosuch", stderr="binary-v2:///nosuch")) == {}


def test_split():
    assert split("/a%20b", "") == ("fifo", "/a%20b")


def test_who_hears_what_is_said_on_standard_error():
    assert heard(Stdio(stderr="fd://1"))
    for stdio in (Stdio(), Stdio(stdout="fd://1"), Stdio(stderr="file:///x"), Stdio(stderr="fd://1", terminal=True)):
        assert not heard(stdio)
