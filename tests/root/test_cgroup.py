"""The reader of cgroups' files: every form that the kernel writes, beside its plain twin, and real cgroups."""

import contextlib
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.metrics.cgroups import plan
from pyx.cgroup import LINES, MAX, NUMBER, NUMBERS, ROWS, TEXT, Reader
from tests import cgroups, plaincgroup

pytestmark = pytest.mark.root

WORK = "import os, sys; b = bytearray(8 << 20); open(sys.argv[1], 'wb').write(b); [None for _ in range(10**6)]"


def read(files, values):
    """By the reader, which its twin agrees with."""
    with Reader(files, values) as reader:
        found = reader.read()
        assert reader.read() == found
    assert plaincgroup.read(files, values) == found
    return found


@pytest.mark.parametrize(
    ("text", "form", "keys", "scale", "expected"),
    [
        ("123\n", NUMBER, [""], 1, (123,)),
        ("9223372036854771712\n", NUMBER, [""], 1, (9223372036854771712,)),
        ("max\n", NUMBER, [""], 1000, (MAX,)),
        ("", NUMBER, [""], 1, (None,)),
        ("user 12\nsystem 3\n", LINES, ["system", "user", "nice"], 10, (30, 120, None)),
        ("low 0\nhigh 1\nmax 2\noom_kill 3\noom 4\n", LINES, ["oom", "oom_kill"], 1, (4, 3)),
        ("some avg10=1.50 avg60=0.07 avg300=99.00 total=1234\nfull avg10=0.00 avg60=3.1 avg300=12.345 total=5\n",
         LINES, ["some avg10", "some avg60", "full avg10", "full avg60", "full avg300", "full total", "some"], 1,
         (150, 7, 0, 310, 1234, 5, None)),
        ("253:0 rbytes=1 wbytes=2 rios=3\n8:16 rbytes=4\n", ROWS, [""], 1,
         ((("253:0", "rbytes", 1), ("253:0", "wbytes", 2), ("253:0", "rios", 3), ("8:16", "rbytes", 4)),)),
        ("8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n", ROWS, [""], 2,
         ((("8:0", "Read", 2), ("8:0", "Write", 4), ("8:0", "Total", 6)),)),
        ("8:0 77\n", ROWS, [""], 1, ((("8:0", "", 77),),)),
        ("mlx4_0 hca_handle=2 hca_object=max\n", ROWS, [""], 1,
         ((("mlx4_0", "hca_handle", 2), ("mlx4_0", "hca_object", MAX)),)),
        ("Total 0\n", ROWS, [""], 1, ((),)),
        ("1 2 3 \n", NUMBERS, [""], 1, ((1, 2, 3),)),
        ("0-3,8\n", TEXT, [""], 1, ("0-3,8",)),
        ("\n", TEXT, [""], 1, ("",)),
    ],
)  # fmt: skip
def test_forms(tmp_path, text, form, keys, scale, expected):
    (tmp_path / "file").write_text(text)
    files = [([str(tmp_path / "file")], form, [(key, index) for index, key in enumerate(keys)], scale)]
    assert read(files, len(keys)) == expected


def test_keys_of_one_value_are_summed(tmp_path):
    """And a key may be of several."""
    (tmp_path / "file").write_text("a 1\nb 2\nc 4\n")
    keys = [("a", 0), ("c", 0), ("b", 1), ("c", 2), ("a", 3), ("c", 4)]
    assert read([([str(tmp_path / "file")], LINES, keys, 1)], 5) == (5, 2, 4, 1, 4)


def test_the_first_file_that_is_there_counts(tmp_path):
    for name in ("second", "third"):
        (tmp_path / name).write_text(name)
    paths = [str(tmp_path / name) for name in ("first", "second", "third")]
    assert read([(paths, TEXT, [("", 0)], 1), (paths[:1], NUMBER, [("", 1)], 1)], 2) == ("second", None)


@pytest.mark.parametrize("lines", [1, 1000, 5000])
def test_long_files(tmp_path, lines):
    (tmp_path / "rows").write_text("".join(f"8:{n} rbytes={n} wbytes={n}\n" for n in range(lines)))
    (tmp_path / "lines").write_text("".join(f"key{n} {n}\n" for n in range(lines)))
    last = f"key{lines - 1}"
    files = [
        ([str(tmp_path / "rows")], ROWS, [("", 0)], 1),
        ([str(tmp_path / "lines")], LINES, [(last, 1), ("key0", 2)], 1),
        ([str(tmp_path / "rows")], ROWS, [("", 3)], 3),
    ]
    assert read(files, 4)[1:3] == (lines - 1, 0)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60) | st.text("ab 1=.\nmx:", max_size=60).map(str.encode), min_size=1, max_size=4))
def test_no_text_does_it_harm(tmp_path_factory, texts):
    folder = tmp_path_factory.getbasetemp()
    for number, text in enumerate(texts):
        (folder / f"text{number}").write_bytes(text)
    files = [
        ([str(folder / f"text{number}")], form, [("a" if form == LINES else "", 4 * number + form)], 7)
        for number in range(len(texts))
        for form in (NUMBER, LINES, ROWS, NUMBERS)
    ]
    with Reader(files, 16) as reader, contextlib.suppress(UnicodeDecodeError):
        assert len(reader.read()) == 16


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="value 1"):
        Reader([([], NUMBER, [("", 1)], 1)], 1)
    with pytest.raises(ValueError, match="form 5"):
        Reader([([], 5, [("", 0)], 1)], 1)
    with pytest.raises(ValueError, match="null byte"):
        Reader([(["a\0"], NUMBER, [("", 0)], 1)], 1)
    assert Reader([], 0).read() == ()
    reader = Reader([([str(tmp_path)], NUMBER, [("", 0)], 1)], 1)  # a directory
    assert reader.read() == (None,)
    reader.close()
    reader.close()
    with pytest.raises(OSError, match="No such device"):
        reader.read()


def test_a_real_cgroup(tmp_path):
    """Of one whose process has ended, so that its numbers are still."""
    with cgroups.made("holdd-test-reader") as directories:
        argv = [sys.executable, "-c", WORK, tmp_path / "file"]
        subprocess.run(argv, check=True, preexec_fn=lambda: cgroups.join(directories))
        os.sync()
        made = plan(directories)
        files = [source.opened(directories) for source in made.sources]
        for _ in range(20):  # the kernel settles its accounts now and then
            with Reader(files, made.values) as reader:
                before, plain, after = reader.read(), plaincgroup.read(files, made.values), reader.read()
            if before == after:
                break
        assert plain == before == after
        assert sum(value is not None for value in before) > made.values / 2
        reader = Reader(files, made.values)
    with pytest.raises(OSError, match="No such device"):
        reader.read()
    reader.close()


def test_threads_share_a_reader(tmp_path):
    (tmp_path / "rows").write_text("".join(f"8:{n} rbytes={n}\n" for n in range(500)))
    reader = Reader([([str(tmp_path / "rows")], ROWS, [("", 0)], 1)], 1)
    expected, found = reader.read(), []
    threads = [threading.Thread(target=lambda: found.extend(reader.read() for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert len(found) == 200
    assert set(found) == {expected}
