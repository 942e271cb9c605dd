"""Runtimes that misbehave, at each of their calls: an error in time that tells why, and nothing that stays behind."""

import asyncio
import os
import stat
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from daemon.runtime import cgroups, living, probes
from daemon.runtime.oci import RuntimeConfig
from spec import errors
from spec.records import RuntimeRef, Status
from spec.types import Stdio
from tests.root.tasks_rig import NAMESPACE, Rig, exists, json_process, lived, text, until

pytestmark = pytest.mark.root

TIMEOUT_S = 2.0
BOUND_S = 60.0  # no call may take that long, however slow the machine

# A runtime that does as runc does, but for what the file beside it says of some of its calls: VERB, then shell.
PROGRAM = """#!/bin/sh
verb= pidfile= log= ahead=
for word; do
    case $ahead in --pid-file) pidfile=$word ;; --log) log=$word ;; esac
    case $word in create|start|exec|kill|delete|pause|resume|update|state) verb=${verb:-$word} ;; esac
    ahead=$word
done
if [ -e "$0.$verb" ]; then . "$0.$verb"; fi
exec runc "$@"
"""
HANGS = "sleep 1000; exit 0"
NOTHING = "exit 0"

# What a broken runtime does, and what the error tells of it. Its output at create and exec is that of the process.
WAYS = {
    "hangs": (HANGS, errors.DeadlineExceeded, "killed after "),
    "hangs after saying why": ("echo so it is >&2; trap '' TERM; while :; do sleep 1000; done", errors.DeadlineExceeded,
                               "so it is"),
    "hangs after logging why": ("""echo '{"level":"error","msg":"so it is"}' > $log; sleep 1000""",
                                errors.DeadlineExceeded, "so it is"),
    "is silent": ("exit 3", errors.Unknown, "it ended with status 3"),
    "logs": ("""echo '{"level":"error","msg":"so it is"}' > $log; echo so it is >&2; exit 1""", errors.Unknown,
             "so it is"),
    "prints": ("echo this >&2; echo so it is >&2; exit 1", errors.Unknown, "so it is"),
    "prints garbage": ("head -c 5000 /dev/urandom; exit 4", errors.Unknown, "by runtime"),
    "logs garbage": ("head -c 5000 /dev/urandom > $log; exit 4", errors.Unknown, "it ended with status 4"),
    "prints megabytes": ("head -c 8000000 /dev/zero | tr '\\0' x; echo so it is; exit 1", errors.Unknown, "so it is"),
    "prints one long line": ("head -c 8000000 /dev/zero | tr '\\0' x; exit 1", errors.Unknown, "xxx"),
    "logs megabytes": ("""yes | head -c 8000000 > $log; echo '{"level":"error","msg":"so it is"}' >> $log; exit 1""",
                       errors.Unknown, "so it is"),
    "dies of a signal": ("kill -SEGV $$", errors.Unknown, "it was killed by SIGSEGV"),
    "leaves a process": ("setsid sleep 1000 & exit 5", errors.Unknown, "it ended with status 5"),
}  # fmt: skip
SPOKEN = ("prints", "hangs after saying why", "prints garbage", "prints megabytes", "prints one long line")


class Broken:
    """The runtime below `directory`."""

    def __init__(self, directory):
        self.path = Path(directory, "runtime")
        self.path.write_text(PROGRAM)
        self.path.chmod(0o755)

    def breaks(self, verb, way):
        Path(f"{self.path}.{verb}").write_text(way)

    def heals(self):
        for path in self.path.parent.glob("runtime.*"):
            path.unlink()


def story_of(story, **options):
    """Run `story(rig, broken)`, with the runtime "broken"."""

    async def with_runtime(rig: Rig):
        broken = Broken(rig.root / "tmp")
        rig.tasks._workshop.runtimes["broken"] = RuntimeConfig(path=str(broken.path), timeout_s=TIMEOUT_S)
        rig.runtimes["broken"] = RuntimeConfig(path=str(broken.path), timeout_s=TIMEOUT_S)
        async with asyncio.timeout(BOUND_S):
            await story(rig, broken)
        await nothing_left(rig)

    lived(with_runtime, runtimes={}, **options)


async def nothing_left(rig):
    """Of a container named one, and of those whose processes it left."""
    assert rig.tasks.tasks() == []
    assert rig.remains() == []
    assert cgroups.placed("/holdd-test/one") == []
    assert records(rig) == []
    await until(lambda: not living.descendants(rig.nursery.pid))
    assert f"{rig.state}/" not in text("/proc/self/mountinfo")


def records(rig):
    """What runtimes know of containers."""
    return list(Path(rig.state, "runc").glob("*/*"))


def checked(raised, said):
    message = raised.value.message
    assert said in message
    assert message.count("so it is") <= 1
    assert "container one by runtime 'broken'" in message
    assert len(message) < 2000
    assert message.isprintable()


@contextmanager
def hastened(task, kind):
    """Where the runtime is expected to hang, wait for it no longer than needed."""
    commands = task.state.calls.commands
    before = commands.launch
    if kind is errors.DeadlineExceeded:
        commands.launch = msgspec.structs.replace(before, timeout_s=0.2)
    try:
        yield
    finally:
        commands.launch = before


CALLS = {
    "start": lambda task: task.start(),
    "update": lambda task: task.update(b'{"pids": {"limit": 100}}'),
    "pause": lambda task: task.pause(),
    "resume": lambda task: task.resume(),
    "kill": lambda task: task.kill(23, all_processes=True),
}
BEFORE = {"start": Status.CREATED, "resume": Status.PAUSED}  # and running before the others


@pytest.mark.parametrize("way", WAYS)
def test_a_creation_that_fails_leaves_nothing(way):
    does, kind, said = WAYS[way]

    async def story(rig, broken):
        broken.breaks("create", does)
        with pytest.raises(kind) as raised:
            await rig.create("one", "true", runtime="broken")
        checked(raised, "by runtime" if way in SPOKEN else said)
        assert rig.published == []
        broken.heals()
        assert (await (await rig.run("one", "true", runtime="broken")).wait()).status == 0
        await rig.delete("one")

    story_of(story)


@pytest.mark.parametrize("way", WAYS)
def test_each_call_that_fails_changes_nothing(way):
    does, kind, said = WAYS[way]

    async def story(rig, broken):
        task = await rig.create("one", "sleep", "1000", runtime="broken")
        for verb, call in CALLS.items():
            before = BEFORE.get(verb, Status.RUNNING)
            assert task.process().status is before
            broken.breaks(verb, does)
            with pytest.raises(kind) as raised, hastened(task, kind):
                await call(task)
            checked(raised, said)
            assert task.process().status is before
            broken.heals()
            await call(task)
        broken.breaks("exec", does)
        await task.exec("e", json_process("sleep", "1000"), Stdio())
        with pytest.raises(kind) as raised, hastened(task, kind):
            await task.start("e")
        checked(raised, "by runtime" if way in SPOKEN else said)
        assert (await task.wait("e")).status == 255
        await task.delete_process("e")
        assert len(await task.pids()) == 1
        await task.kill(9)
        await task.wait()
        broken.breaks("delete", does)
        with pytest.raises(kind) as raised, hastened(task, kind):
            await rig.delete("one")
        checked(raised, said)
        assert task.process().status is Status.STOPPED
        broken.heals()
        assert (await rig.delete("one")).status == 137

    story_of(story)


def test_a_runtime_that_does_nothing():
    async def story(rig, broken):
        broken.breaks("create", NOTHING)
        with pytest.raises(errors.Unknown, match="create container one by runtime 'broken': it wrote no pid"):
            await rig.create("one", "true", runtime="broken")
        broken.heals()
        task = await rig.create("one", "sleep", "1000", runtime="broken")
        await task.exec("e", json_process("true"), Stdio())
        for verb in ("start", "exec", "pause", "resume", "kill", "update", "delete", "state"):
            broken.breaks(verb, NOTHING)
        await task.start()
        with pytest.raises(errors.Unknown, match="exec e in container one by runtime 'broken': it wrote no pid"):
            await task.start("e")
        await task.pause()
        await rig.restarted()
        task = rig.tasks.get(NAMESPACE, "one")
        assert task.process().status is Status.PAUSED
        await task.kill(9)
        assert (await task.wait()).status == 137
        await rig.delete("one")

    story_of(story)


def test_a_runtime_that_hangs_once_it_has_done_its_work():
    async def story(rig, broken):
        task = await rig.run("one", "sleep", "1000", runtime="broken")
        for verb, call, status in (("pause", task.pause, Status.PAUSED), ("resume", task.resume, Status.RUNNING)):
            broken.breaks(verb, 'runc "$@"; sleep 1000')
            with pytest.raises(errors.DeadlineExceeded, match=f"{verb} container one by runtime 'broken'"):
                await call()
            assert task.process().status is status
        broken.breaks("exec", 'runc "$@"; sleep 1000')
        await task.exec("e", json_process("sleep", "1000"), Stdio())
        with pytest.raises(errors.DeadlineExceeded):
            await task.start("e")
        assert len(await task.pids()) == 1
        await rig.end("one")

    story_of(story)


def test_a_runtime_that_deletes_nothing_and_shares_the_hosts_pids():
    async def story(rig, broken):
        namespaces = ("mount", "uts")
        both = ("sh", "-c", "sleep 1000 & exec sleep 1000")
        task = await rig.run("one", *both, runtime="broken", namespaces=namespaces)
        await until(lambda: len(cgroups.members(cgroups.placed("/holdd-test/one"))) == 2)
        for verb in ("kill", "delete"):
            broken.breaks(verb, NOTHING)
        await task.kill(9)
        await task.wait()
        assert len(cgroups.members(cgroups.placed("/holdd-test/one"))) == 1
        await rig.delete("one")
        assert cgroups.members(cgroups.placed("/holdd-test/one")) == frozenset()

    story_of(story)


def test_a_frozen_task_dies_although_the_runtime_does_not_thaw_it():
    async def story(rig, broken):
        task = await rig.run("one", "sleep", "1000", runtime="broken")
        await task.pause()
        broken.breaks("kill", NOTHING)
        await task.kill(9)
        assert (await task.wait()).status == 137
        await rig.delete("one")

    story_of(story)


@pytest.mark.parametrize("pid", ["1", "$PPID", "4194304", "-1", "0", "", "one", "99999999999999999999"])
def test_a_runtime_that_tells_the_pid_of_another(pid):
    async def story(rig, broken):
        lie = f'echo {pid} > "$pidfile"; exit 0'
        broken.breaks("create", lie)
        with pytest.raises(errors.Unknown, match=r"create container one by runtime 'broken': it wrote (no )?pid"):
            await rig.create("one", "true", runtime="broken")
        broken.heals()
        task = await rig.run("one", "sleep", "1000", runtime="broken")
        broken.breaks("exec", lie)
        await task.exec("e", json_process("true"), Stdio())
        with pytest.raises(errors.Unknown, match=r"exec e in container one by runtime 'broken': it wrote (no )?pid"):
            await task.start("e")
        await rig.end("one")

    story_of(story)


def test_a_runtime_that_fails_once_it_has_done_its_work():
    async def story(rig, broken):
        done = 'runc "$@"; echo too late >&2; exit 1'
        broken.breaks("create", done)
        with pytest.raises(errors.Unknown):
            await rig.create("one", "sleep", "1000", runtime="broken")
        assert cgroups.placed("/holdd-test/one") == []
        broken.heals()
        task = await rig.run("one", "sleep", "1000", runtime="broken")
        broken.breaks("exec", done)
        await task.exec("e", json_process("sleep", "1000"), Stdio())
        with pytest.raises(errors.Unknown):
            await task.start("e")
        assert len(await task.pids()) == 1
        await rig.end("one")

    story_of(story)


def test_what_is_left_of_a_creation_that_the_runtime_does_not_undo():
    async def story(rig, broken):
        broken.breaks("create", 'runc "$@"; exit 1')
        for way in (NOTHING, "exit 1", HANGS):
            broken.breaks("delete", way)
            with pytest.raises(errors.Unknown):
                await rig.create("one", "sleep", "1000", runtime="broken")
            await nothing_left(rig)

    story_of(story)


NOT_RUN = {
    "gone": lambda path: path.unlink(),
    "not executable": lambda path: path.chmod(0o644),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a dangling link": lambda path: (path.unlink(), path.symlink_to("/no/such")),
    "a circle": lambda path: (path.unlink(), path.symlink_to(path)),
}
MISMADE = {
    "without its interpreter": b"#!/no/such/shell\n",
    "of another machine": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf7\x00" + bytes(100),
    "empty": b"",
    "no program": b"no program",
}


@pytest.mark.parametrize("way", NOT_RUN)
def test_a_runtime_that_is_not_there(way):
    async def story(rig, broken):
        task = await rig.run("one", "sleep", "1000", runtime="broken")
        NOT_RUN[way](broken.path)
        with pytest.raises(errors.NotFound, match="runtime 'broken' not found: no executable"):
            await rig.create("two", "true", runtime="broken")
        with pytest.raises(errors.Error, match=f"'broken'.*{broken.path}") as raised:
            await task.pause()
        assert not isinstance(raised.value, errors.NotFound)
        await task.kill(9)
        await task.wait()
        if way in ("not executable", "a directory", "a circle"):  # it may come back
            with pytest.raises(errors.Error, match=f"'broken'.*{broken.path}"):
                await rig.delete("one")
            if broken.path.is_dir():
                broken.path.rmdir()
            else:
                broken.path.unlink()
        await rig.delete("one")

    story_of(story)


@pytest.mark.parametrize("way", MISMADE)
def test_a_runtime_that_cannot_be_run(way):
    async def story(rig, broken):
        broken.path.write_bytes(MISMADE[way])
        assert os.stat(broken.path).st_mode & stat.S_IXUSR
        with pytest.raises(errors.Error, match="create container one by runtime 'broken'"):
            await rig.create("one", "true", runtime="broken")
        assert not exists(f"{rig.state}/tasks/{NAMESPACE}/one")

    story_of(story)


def test_a_state_that_is_garbage():
    async def story(rig, broken):
        await rig.run("one", "sleep", "1000", runtime="broken")
        for way in ("head -c 5000 /dev/urandom; exit 0", "echo '[]'; exit 0", "exit 1", HANGS):
            broken.breaks("state", way)
            task = rig.tasks.get(NAMESPACE, "one")
            task.state.save(unsettled=True)
            await rig.restarted()
            task = rig.tasks.get(NAMESPACE, "one")
            assert task.process().status is Status.RUNNING
            assert not task.state.record.unsettled
        await rig.end("one")

    story_of(story)


def test_a_runtime_is_asked_once_for_what_it_is(monkeypatch):
    monkeypatch.setattr(probes, "SECONDS", 0.3)
    says = "#!/bin/sh\necho $1 >> {notes}\ncase $1 in --version) echo runc version {version};; *) exit 1;; esac\n"

    async def story(rig, broken):
        notes = Path(f"{broken.path}.notes")

        def asked():
            return rig.tasks.info("", RuntimeRef(name="broken"))

        broken.path.write_text("#!/bin/sh\nsleep 1000\n")
        with pytest.raises(errors.DeadlineExceeded, match=f"ask runtime {broken.path} for its version"):
            await asked()
        broken.path.write_text(says.format(notes=notes, version="1.1.11"))
        told = await asyncio.gather(asked(), asked(), asked())
        assert {info.version.version for info in told} == {"1.1.11"}
        assert "CVE-2024-21626" in told[0].warnings[0]
        assert text(notes).split() == ["--version", "features"]
        broken.path.write_text(says.format(notes=notes, version="99.0"))
        assert (await asked()).warnings == ()
        asking = asyncio.create_task(asked())
        broken.path.write_text("#!/bin/sh\nsleep 1000; exit 0\n")
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])

    story_of(story)
