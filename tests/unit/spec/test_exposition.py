"""The text format: what is written is what a reader of it reads."""

import pytest

from daemon.kit.tally import Counter, Histogram
from spec import exposition
from tests import exposed

AWKWARD = 'a "b" \\c\\n\n, {d="e"} f'


def test_samples_come_back():
    counter = Counter("c_total", "How\nmany \\ there are.", ("what",))
    counter.add(AWKWARD)
    counter.add("plain", count=3)
    counter.add("plain", count=2)
    families = exposed.parse(exposition.text([counter.family()]))
    assert families["c_total"].kind == "counter"
    assert families["c_total"].help == "How\nmany \\ there are."
    assert families["c_total"].samples == {
        ("c_total", (("what", AWKWARD),)): 1,
        ("c_total", (("what", "plain"),)): 5,
    }


def test_a_histogram_is_cumulative():
    histogram = Histogram("h", "Took.", ("of",), buckets=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7):
        histogram.observe(seconds, "x")
    samples = exposed.parse(exposition.text([histogram.family()]))["h"].samples
    found = {dict(labels).get("le", name): value for (name, labels), value in samples.items()}
    assert found == {"0.1": 2, "1.0": 3, "+Inf": 4, "h_sum": pytest.approx(7.65), "h_count": 4}


def test_nothing_counted():
    assert exposition.text([Counter("c_total", "x", ("l",)).family()]) == ""
    assert exposed.value(exposition.text([Counter("c_total", "x").family()]), "c_total") == 0
    assert exposed.value(exposition.text([Histogram("h", "x").family()]), "h_count") == 0
