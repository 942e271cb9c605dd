"""Differs in a chain: who is asked, and whose answer counts."""

import pytest

from daemon.diff.chain import Chain
from spec import errors
from spec.oci.image import Descriptor

LAYER = Descriptor(media_type="a layer")

# Each way to ask the first that can, as what to call with what.
WAYS = {
    "apply": (LAYER, [], None),
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


@pytest.mark.parametrize("answer", ["applied", NOT_ME])
def test_a_stream_is_for_the_first(answer):
    """Who comes later may only have it when the first does not want the blob either."""
    differs = [Differ(answer), Differ("two")]
    if answer is NOT_ME:
        with pytest.raises(errors.Unimplemented, match="not me"):
            Chain(differs).apply_stream(None, LAYER, [])
    else:
        assert Chain(differs).apply_stream(None, LAYER, []) == answer
    assert differs[1].asked == []
    with pytest.raises(errors.Unimplemented, match="no differ"):
        Chain([]).apply_stream(None, LAYER, [])


@pytest.mark.parametrize(
    ("answers", "settled"),
    [([True, True], True), ([True, False], False), ([NOT_ME, True], True), ([NOT_ME, False], False)],
)
def test_whoever_applied_it_settles_it(answers, settled):
    assert Chain([Differ(answer) for answer in answers]).settle(None, []) == settled


def test_all_make_durable_what_they_applied():
    differs = [Differ(None), Differ(NOT_ME), Differ(None)]
    Chain(differs).sync([])
    assert [differ.asked for differ in differs] == [[("sync", ([],))]] * 3
    for unable in ([], [NOT_ME, NOT_ME]):
        with pytest.raises(errors.Unimplemented):
            Chain([Differ(answer) for answer in unable]).sync([])
    with pytest.raises(errors.ResourceExhausted):
        Chain([Differ(None), Differ(errors.ResourceExhausted("full"))]).sync([])
