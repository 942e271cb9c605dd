"""Differs in a chain: who is asked, and whose answer counts."""

import pytest

from daemon.diff.chain import Chain
from spec import errors
from spec.oci.image import Descriptor

LAYER = Descriptor(media_type="a layer")

# Each way to ask, as what to call with what.
WAYS = {
    "apply": (LAYER, [], None),
    "apply_stream": (None, LAYER, [], None),
    "settle": (None, []),
    "sync": ([],),
    "compare": ([], [], "type", "ref", {"a": "b"}, 7, None),
}


class Differ:
    """Answers everything in one way, and notes what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def __getattr__(self, name):
        def method(*args):
            self.asked.append((name, args))
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return method


NOT_ME = errors.Unimplemented("not me")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("answers", "asked", "result"),
    [
        (["one"], 1, "one"),
        (["one", "two"], 1, "one"),
        ([NOT_ME, "two", "three"], 2, "two"),
        ([NOT_ME, errors.NotFound("gone"), "three"], 2, errors.NotFound),
        ([errors.Unimplemented("first"), NOT_ME], 2, errors.Unimplemented),
        ([], 0, errors.Unimplemented),
    ],
)
def test_the_first_that_can_answers(way, answers, asked, result):
    differs = [Differ(answer) for answer in answers]
    ask = getattr(Chain(differs), way)
    if isinstance(result, str):
        assert ask(*WAYS[way]) == result
    else:
        with pytest.raises(result):
            ask(*WAYS[way])
    assert [differ.asked for differ in differs] == [[(way, WAYS[way])]] * asked + [[]] * (len(answers) - asked)
