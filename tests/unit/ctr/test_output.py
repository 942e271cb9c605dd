import argparse
import json
import time

import pytest

from ctr import output
from ctr.output import Out
from spec import errors
from spec.records import Namespace

HEADER = ("NAME", "LABELS")
ROWS = [("a", "x=1"), ("longer", "-")]
RECORDS = [Namespace(name="a", labels={"x": "1"}), Namespace(name="longer")]


def table(capsys, *flags):
    parser = argparse.ArgumentParser()
    output.register_list(parser)
    Out(parser.parse_args(flags)).table(HEADER, ROWS, RECORDS, [record.name for record in RECORDS])
    return capsys.readouterr().out


def test_a_table_is_aligned_and_has_no_trailing_blanks(capsys):
    assert table(capsys) == "NAME      LABELS\na         x=1\nlonger    -\n"


def test_names_alone(capsys):
    assert table(capsys, "-q") == "a\nlonger\n"


def test_json_wins_over_quiet(capsys):
    assert json.loads(table(capsys, "--json", "-q")) == [{"name": "a", "labels": {"x": "1"}}, {"name": "longer"}]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (1 << 51, "2048.0 TiB")],
)
def test_size(count, text):
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (3 * 86400, "3 days")],
)
def test_age(monkeypatch, seconds, text):
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000 * 10**9)
    assert output.age((1_000_000 - seconds) * 10**9) == text


def test_age_of_what_comes_from_the_future():
    assert output.age(time.time_ns() + 10**15) == "0 seconds"


def test_labels_to_text_and_back():
    given = {"b": "2", "a": "x=y"}
    assert output.labels(given) == "a=x=y,b=2"
    assert output.parse_labels(["a=x=y", "b=2"]) == given
    assert output.parse_labels(["bare", "empty="]) == {"bare": "true", "empty": ""}
    assert output.labels({}) == "-"


def test_each_goes_on_after_a_failure_and_tells_it(capsys):
    done = []

    def work(name):
        if name == "b":
            raise errors.NotFound("b is not there")
        done.append(name)

    assert output.each(["a", "b", "c"], work) == 1
    assert done == ["a", "c"]
    assert capsys.readouterr().err == "ctr: b is not there\n"
    assert output.each([], work) == 0
