"""Programs as stream processors: real ones, well-behaved and not."""

import io
import os
import threading
import time
from contextlib import closing

import pytest

from daemon.diff import programs
from daemon.diff.programs import LAST_WORDS, Program
from daemon.kit.cancel import Token
from spec import errors

SECRET = "application/x-secret"
PLAIN = "application/x-plain"


def program(script, **more):
    return Program("test", [SECRET], PLAIN, "/bin/sh", ["-c", script], **more)


class Stream(io.BytesIO):
    """A Source that knows whether it was closed."""


def through(script, data=b"", **more):
    source = Stream(data)
    with closing(program(script, **more).open(source, SECRET)) as stream:
        found = b""
        while part := stream.read(100_000):
            found += part
    assert not source.closed
    return found


def test_bytes_go_through():
    data = os.urandom(3_000_000)
    assert through("cat", data) == data
    assert through("od -An -tx1 | tr -d ' \\n'", data).decode() == data.hex()
    assert through("cat") == b""


def test_what_it_is_given():
    assert through("env | grep -v ^_= | grep -v ^PWD= | sort", env=["KEY=a=b"]) == (
        f"KEY=a=b\nPATH={programs.PATH}\nSTREAM_PROCESSOR_MEDIATYPE={SECRET}\n".encode()
    )
    assert through("cat <&3", payload=b"the key") == b"the key"
    assert through("ls /proc/self/fd | tr '\\n' ' '") == b"0 1 2 3 "  # the last is that of ls itself


def test_a_program_that_reads_no_further_may_have_all_it_needs():
    assert through("head -c 5", bytes(10_000_000)) == bytes(5)
    assert through("echo done", bytes(10_000_000)) == b"done\n"


def test_a_program_that_writes_no_further_is_fed_to_its_end():
    assert through("exec 5>&1; exec >&-; exec 1>&5; exec 5>&-; wc -c", bytes(3_000_000)).strip() == b"3000000"
    assert through("echo first; exec >&-; cat > /dev/null", bytes(3_000_000)) == b"first\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("cat; exit 3", r"test: exit status 3$"),
        ("cat; echo 'no key' >&2; exit 1", r"test: exit status 1: no key$"),
        ("cat > /dev/null; kill -9 $$", r"test: Killed$"),
        ("cat; exec >&-; sleep 0.05; echo late >&2; exit 9", r"test: exit status 9: late$"),
        ("exit 1", r"exit status 1$"),
    ],
)
def test_a_program_that_fails(script, said):
    with pytest.raises(errors.Unknown, match=said):
        through(script, b"x" * 1_000_000)


def test_last_words_are_bounded():
    with pytest.raises(errors.Unknown, match=r"the end$") as caught:
        through("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1")
    assert len(caught.value.message) < LAST_WORDS + 100


def test_whoever_gives_up_kills_it_and_what_it_started(tmp_path):
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; echo there; wait"
    with closing(program(script).open(Stream(b""), SECRET)) as stream:
        assert stream.read(100) == b"there\n"
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and state(pid) != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}") or state(pid) == "Z"


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_cancelled_while_it_is_silent():
    token = Token()
    threading.Timer(0.05, token.cancel, ["enough"]).start()
    stream = program("sleep 1000").open(Stream(b""), SECRET, token)
    with closing(stream), pytest.raises(errors.Canceled, match="enough"):
        stream.read(1)


@pytest.mark.parametrize("end", ["exec >&-; ", ""])
def test_a_source_that_fails_ends_it(end):
    class Broken:
        def read(self, size, /):
            raise errors.DataLoss("it is gone")

        def close(self):
            raise AssertionError("the source is its opener's")

    stream = program(f"{end}cat > /dev/null").open(Broken(), SECRET)
    with closing(stream), pytest.raises(errors.DataLoss, match="gone"):
        stream.read(1)


def test_it_is_looked_up_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("cat", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\necho stolen\n")
        (tmp_path / name).chmod(0o755)
    with closing(Program("test", [SECRET], PLAIN, "cat").open(Stream(b"true"), SECRET)) as stream:
        assert stream.read(100) == b"true"
        assert stream.read(100) == b""
    for path in ("mine", "nosuch", f"{tmp_path}/nosuch"):
        with pytest.raises((errors.FailedPrecondition, errors.NotFound), match=os.path.basename(path)):
            Program("test", [SECRET], PLAIN, path).open(Stream(b""), SECRET)


def test_chains():
    """Each at most once, those that were named first first, and none for what none takes."""
    one = Program("one", ["a", "b"], "c", "/bin/sh", ["-c", "cat; printf 1"])
    two = Program("two", ["c"], "a", "/bin/sh", ["-c", "cat; printf 2"])
    also = Program("also", ["a"], "z", "/bin/sh", ["-c", "cat; printf 3"])
    for media_type, expected in (("b", (b"x123", "z")), ("c", (b"x21", "c")), ("other", (b"x", "other"))):
        with programs.through(Stream(b"x"), media_type, [one, two, also]) as (stream, kind):
            found = b""
            while part := stream.read(100):
                found += part
        assert (found, kind) == expected


def test_payloads_are_by_id():
    paid = programs.paid([program("cat <&3"), Program("other", ["b"], "c", "cat")], {"test": b"key", "nosuch": b"x"})
    with programs.through(Stream(b""), SECRET, paid) as (stream, _):
        assert stream.read(100) == b"key"
    assert paid[1].payload == b""
