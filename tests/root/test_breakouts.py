"""Every published breakout in every way to apply a layer: what it does stays below the root, and is the same."""

import pytest

from spec import errors
from tests.breakouts import KEPT, OTHERS, PUBLISHED, REFUSED
from tests.ways import WAYS, Canary, Stack

pytestmark = pytest.mark.root


@pytest.fixture
def canary(tmp_path):
    made = Canary(tmp_path)
    yield made
    made.check()


def test_all_of_them_are_here():
    assert len(PUBLISHED) == 34


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", PUBLISHED | OTHERS)
def test_breakouts(canary, case, way):
    below, entries, check = (PUBLISHED | OTHERS)[case]
    stack = Stack(canary.place("stack"), way)
    if below:
        stack.apply(*below)
    if callable(entries):
        entries = entries(str(canary.host))
    if check == REFUSED:
        with pytest.raises(errors.InvalidArgument):
            stack.apply(*entries)
        check = KEPT
    else:
        stack.apply(*entries)
    with stack.seen() as root:
        assert check(root)
