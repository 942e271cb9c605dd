"""What a runtime and CRIU say of a failure, as an error repeats it."""

import pytest

from daemon.runtime.words import WORDS_MAX, complaint, criu_complaint


@pytest.mark.parametrize(
    ("log", "output", "expected"),
    [
        (b'{"level":"error","msg":"one"}\n{"level":"error","msg":" two "}\n{"level":"info","msg":"x"}', b"", "two"),
        (b'{"level":"warning","msg":"w"}\n', b"a\nlast line\n", "last line"),
        (b'not json\n{"level":"fatal","msg":"f"}\n{"level":"err', b"", "f"),
        (b"\xff\xfe\n[1]\n", b"", "it ended with status 3"),
        (b'{"level":"error","msg":""}', b"\xff", "\ufffd"),
        (b'{"level":"error","msg":"one\\n\\u001b[31mtwo"}', b"", "one \ufffd[31mtwo"),
        (b"", b"words\n  \n\n", "words"),
    ],
)
def test_what_a_runtime_complains_of(log, output, expected):
    assert complaint(log, output, 3) == expected


@pytest.mark.parametrize(
    ("status", "said"),
    [(1, "it ended with status 1"), (137, "it was killed by SIGKILL"), (255, "it ended with status 255")],
)
def test_a_runtime_that_says_nothing(status, said):
    assert complaint(b"", b"", status) == said


def test_what_is_long_is_cut_at_its_beginning():
    said = complaint(b"", b"x" * 65536 + b": why", 1)
    assert said.startswith("... x")
    assert said.endswith("x: why")
    assert len(said) == WORDS_MAX + 4


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"", ""),
        (b"(00.1) fine\n", ""),
        (b"(00.2) Error (a.c:1): one\n(00.3) Error (b.c:2): two\n", "Error (a.c:1): one; Error (b.c:2): two"),
        (b"Error (a): 1\nError (b): 2\nError (c): 3\nError (d): 4\n", "Error (b): 2; Error (c): 3; Error (d): 4"),
        (b"\xff Error (a.c:1): \xff", "Error (a.c:1): \ufffd"),
    ],
)
def test_what_criu_says(log, said):
    assert criu_complaint(log) == said
