import os
import pty
import signal
import termios

import pytest

from ctr import console
from spec import errors


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


@pytest.mark.parametrize(
    ("keys", "typed", "passed", "left"),
    [
        ("", [b"a\x10\x11"], [b"a\x10\x11"], False),
        ("ctrl-p,ctrl-q", [b"ab\x10\x11cd"], [b"ab"], True),
        ("ctrl-p,ctrl-q", [b"a\x10", b"\x11"], [b"a", b""], True),
        ("ctrl-p,ctrl-q", [b"\x10", b"\x10", b"\x11"], [b"", b"\x10", b""], True),
        ("ctrl-p,ctrl-q", [b"\x10", b"x"], [b"", b"\x10x"], False),
        ("ctrl-p,ctrl-q", [b"\x10", b""], [b"", b"\x10"], False),
        ("a,a,b", [b"aa", b"a", b"b"], [b"", b"a", b""], True),
        ("ctrl-[", [b"\x1b"], [b""], True),
        ("~,.", [b"~", b"."], [b"", b""], True),
    ],
)
def test_keys_that_leave(keys, typed, passed, left):
    leave = console.Leave(console.keys(keys))
    taken = [leave.take(part) for part in typed]
    assert [part for part, _ in taken] == passed
    assert taken[-1][1] is left


@pytest.mark.parametrize("text", ["ctrl-pp", "ab", "ctrl-", "ctrl-1", "\u00e9", "ctrl-p q"])
def test_no_keys(text):
    with pytest.raises(errors.InvalidArgument, match="is no key"):
        console.keys(text)
