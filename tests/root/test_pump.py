"""Bytes between descriptors of every kind, against a plain twin."""

import os
import socket
import threading

import pytest

from pyx import pump

DATA = os.urandom(3_000_001)


def plain_copy(source, target, size=-1):
    done = 0
    while size < 0 or done < size:
        data = os.read(source, 65536 if size < 0 else min(65536, size - done))
        if not data:
            break
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        done += len(data)
    return done


COPIES = [pump.copy, plain_copy]


class Ends:
    """Two descriptors of a kind, and what ends up at the far end of the second."""

    def __init__(self, tmp_path, source, target):
        self.threads, self.open, self.out = [], [], bytearray()
        self.path = tmp_path
        self.source = getattr(self, f"source_{source}")()
        self.target = getattr(self, f"target_{target}")()

    def keep(self, fd):
        self.open.append(fd)
        return fd

    def start(self, function):
        thread = threading.Thread(target=function)
        thread.start()
        self.threads.append(thread)

    def feed(self, fd):
        def work():
            view = memoryview(DATA)
            while view:
                view = view[os.write(fd, view) :]
            os.close(fd)

        self.start(work)

    def drain(self, fd):
        def work():
            while data := os.read(fd, 65536):
                self.out += data
            os.close(fd)

        self.start(work)

    def source_file(self):
        (self.path / "source").write_bytes(DATA)
        return self.keep(os.open(self.path / "source", os.O_RDONLY))

    def source_pipe(self):
        ours, theirs = os.pipe()
        self.feed(theirs)
        return self.keep(ours)

    def source_socket(self):
        ours, theirs = socket.socketpair()
        self.feed(theirs.detach())
        return self.keep(ours.detach())

    def target_file(self, flags=0):
        return self.keep(os.open(self.path / "target", os.O_WRONLY | os.O_CREAT | flags))

    def target_append(self):
        return self.target_file(os.O_APPEND)

    def target_pipe(self):
        theirs, ours = os.pipe()
        self.drain(theirs)
        return self.keep(ours)

    def target_nonblocking(self):
        fd = self.target_pipe()
        os.set_blocking(fd, False)
        return fd

    def target_socket(self):
        ours, theirs = socket.socketpair()
        self.drain(theirs.detach())
        return self.keep(ours.detach())

    def finish(self):
        for fd in self.open:
            os.close(fd)
        for thread in self.threads:
            thread.join()
        target = self.path / "target"
        return target.read_bytes() if target.exists() else bytes(self.out)


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("target", ["file", "append", "pipe", "socket"])
@pytest.mark.parametrize("source", ["file", "pipe", "socket"])
def test_everything_arrives(tmp_path, source, target, copy):
    ends = Ends(tmp_path, source, target)
    assert copy(ends.source, ends.target) == len(DATA)
    assert ends.finish() == DATA


@pytest.mark.parametrize("source", ["file", "pipe", "socket"])
def test_what_would_block_is_waited_for(tmp_path, source):
    ends = Ends(tmp_path, source, "nonblocking")
    os.set_blocking(ends.source, False)
    assert pump.copy(ends.source, ends.target) == len(DATA)
    assert ends.finish() == DATA


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("target", ["file", "append", "pipe", "socket"])
def test_as_much_as_was_asked_for(tmp_path, target, copy):
    ends = Ends(tmp_path, "file", target)
    assert copy(ends.source, ends.target, 0) == 0
    assert copy(ends.source, ends.target, 1_000_000) == 1_000_000
    assert os.lseek(ends.source, 0, os.SEEK_CUR) == 1_000_000
    assert copy(ends.source, ends.target, 1 << 40) == len(DATA) - 1_000_000
    assert ends.finish() == DATA


@pytest.mark.parametrize("copy", COPIES)
def test_files_whose_size_says_nothing(tmp_path, copy):
    ends = Ends(tmp_path, "file", "file")
    source = ends.keep(os.open("/proc/self/mountinfo", os.O_RDONLY))
    assert copy(source, ends.target) > 0
    with open("/proc/self/mountinfo", "rb") as file:
        assert ends.finish() == file.read()


def test_a_target_that_is_gone(tmp_path):
    theirs, ours = os.pipe()
    os.close(theirs)
    ends = Ends(tmp_path, "file", "file")
    with pytest.raises(BrokenPipeError):
        pump.copy(ends.source, ours)
    with pytest.raises(OSError, match="Bad file descriptor"):
        pump.copy(ends.source, -1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        pump.copy(ends.target, ends.source)
    os.close(ours)
    ends.finish()
