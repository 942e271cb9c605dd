import os
import pty
import signal
import termios

import pytest

from ctr import console


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_raw_mode_ends_with_the_block(terminal):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with console.raw(slave):
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO)
    assert termios.tcgetattr(slave) == before


def test_raw_mode_ends_with_an_error_too(terminal):
    before = termios.tcgetattr(terminal[1])
    with pytest.raises(ZeroDivisionError), console.raw(terminal[1]):
        1 / 0  # noqa: B018
    assert termios.tcgetattr(terminal[1]) == before


def test_what_was_typed_ahead_is_kept(terminal):
    master, slave = terminal
    os.write(master, b"typed\n")
    with console.raw(slave):
        assert os.read(slave, 100) == b"typed\n"


def test_no_terminal_is_left_alone():
    with open(os.devnull) as null, console.raw(null.fileno()), console.resizing(null.fileno(), pytest.fail):
        pass


def test_the_size_is_told_now_and_when_it_changes(terminal):
    _, slave = terminal
    told = []
    before = signal.getsignal(signal.SIGWINCH)
    termios.tcsetwinsize(slave, (20, 70))
    with console.resizing(slave, lambda *size: told.append(size)):
        termios.tcsetwinsize(slave, (30, 90))
        os.kill(os.getpid(), signal.SIGWINCH)
    assert told == [(70, 20), (90, 30)]
    assert signal.getsignal(signal.SIGWINCH) == before


def test_a_size_nobody_knows_is_not_told(terminal):
    with console.resizing(terminal[1], pytest.fail):
        pass
