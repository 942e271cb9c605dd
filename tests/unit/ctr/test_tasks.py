import pytest

from ctr.commands import tasks
from spec import errors


@pytest.mark.parametrize(("text", "number"), [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("term", 15), ("64", 64)])
def test_signals_by_name_and_number(text, number):
    assert tasks._signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "-1", "", "NOSUCH", "²", "SIG"])
def test_signals_that_are_none(text):
    with pytest.raises(errors.InvalidArgument, match="signal"):
        tasks._signal(text)
