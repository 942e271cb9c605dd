import pytest

from ctr import progress
from spec.types import Progress


def test_lines_are_told_once_a_phase_and_a_quarter(capsys):
    events = [Progress(event="resolving", name="ref")]
    events += [Progress(event="downloading", name="layer", progress=done, total=100) for done in range(101)]
    events += [Progress(event="complete", name="layer")]
    progress.show(events, quiet=False)
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
        progress.show(events(), quiet=True)
    assert capsys.readouterr().out == ""
