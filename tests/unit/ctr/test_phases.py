import io
import re
import threading

import pytest

from ctr.phases import Phases


class Watched(io.StringIO):
    """A terminal that knows when it was written to."""

    def __init__(self):
        super().__init__()
        self.told = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        count = super().write(text)
        self.told.set()
        return count


def test_what_takes_long_is_told_while_it_does_and_after():
    stream = Watched()
    with Phases(stream, slow_s=0.001).phase("preparing snapshot k"):
        assert stream.told.wait(10)
        assert "so far" in stream.getvalue()
    first, *_, last = stream.getvalue().splitlines()
    assert re.fullmatch(r"ctr: preparing snapshot k: \d+\.\d s so far", first)
    assert re.fullmatch(r"ctr: preparing snapshot k: took \d+\.\d s", last)


def test_what_is_quick_is_not_told():
    stream = Watched()
    with Phases(stream, slow_s=1000).phase("working"):
        pass
    assert stream.getvalue() == ""


def test_nobody_watches():
    stream = io.StringIO()
    with Phases(stream, slow_s=0).phase("working"):
        assert threading.active_count() == 1
    assert stream.getvalue() == ""


def test_an_error_ends_it():
    stream = Watched()
    with pytest.raises(KeyError), Phases(stream, slow_s=1000).phase("working"):
        raise KeyError
    assert threading.active_count() == 1


def test_nobody_need_read_it():
    class Gone(Watched):
        def write(self, text):
            super().write(text)
            raise BrokenPipeError

    stream = Gone()
    with Phases(stream, slow_s=0.001).phase("working"):
        assert stream.told.wait(10)
