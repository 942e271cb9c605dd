import argparse
import json

import pytest

from ctr import progress
from spec.types import Progress


def flags(*given):
    parser = argparse.ArgumentParser()
    progress.register(parser)
    return parser.parse_args(given)


def test_lines_are_told_once_a_phase_and_a_quarter(capsys):
    events = [Progress(event="resolving", name="ref")]
    events += [Progress(event="downloading", name="layer", progress=done, total=100) for done in range(101)]
    events += [Progress(event="complete", name="layer")]
    progress.show(events, flags())
    assert capsys.readouterr().out.splitlines() == [
        "resolving ref",
        *(f"downloading layer {done}/100" for done in (0, 25, 50, 75, 100)),
        "complete layer",
    ]


def test_quiet_reads_to_the_end_and_raises_what_comes(capsys):
    def events():
        yield Progress(event="resolving", name="ref")
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        progress.show(events(), flags("--quiet"))
    assert capsys.readouterr().out == ""


def test_json_is_an_event_a_line(capsys):
    events = [Progress(event="downloading", name="layer", progress=done, total=100) for done in range(3)]
    progress.show(events, flags("--json"))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[1:] == [{"event": "downloading", "name": "layer", "progress": n, "total": 100} for n in (1, 2)]
