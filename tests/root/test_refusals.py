"""What each call comes to in each state of a task: one table, for init and for an exec'd process."""

import asyncio
import contextlib

import pytest

from daemon.runtime import cgroups
from spec import errors
from spec.records import Status
from spec.types import Stdio
from tests.root.tasks_rig import json_process, lived, text, until

pytestmark = pytest.mark.root

FP, NF, IA, AE = errors.FailedPrecondition, errors.NotFound, errors.InvalidArgument, errors.AlreadyExists
RESOURCES = b'{"pids": {"limit": 100}}'

# Calls, in the order of the columns; none changes the state of a task that refuses it or takes it as a query.
CALLS = {
    "start": lambda rig, task: task.start(),
    "delete": lambda rig, task: rig.delete("one"),
    "signal 0": lambda rig, task: task.kill(0),
    "urge": lambda rig, task: task.kill(23),  # SIGURG, which is ignored
    "urge all": lambda rig, task: task.kill(23, all_processes=True),
    "pause": lambda rig, task: task.pause(),
    "resume": lambda rig, task: task.resume(),
    "update": lambda rig, task: task.update(RESOURCES),
    "update with nonsense": lambda rig, task: task.update(b"[]"),
    "close stdin": lambda rig, task: task.close_io(),
    "console": lambda rig, task: task.console(),
    "exec without an id": lambda rig, task: task.exec("", json_process("true"), Stdio()),
    "exec a taken id": lambda rig, task: task.exec("e", json_process("true"), Stdio()),
    "start an unknown exec": lambda rig, task: task.start("nothing"),
    "wait for an unknown exec": lambda rig, task: task.wait("nothing"),
    "delete an unknown exec": lambda rig, task: task.delete_process("nothing"),
    "signal an exec not started": lambda rig, task: task.kill(23, "e"),
    "resize an exec not started": lambda rig, task: task.resize("e", 1, 1),
    "create": lambda rig, task: rig.create("one", "true"),
}
DONE = None
TABLE = {
    #                    created, running, paused, stopped
    "start":                     ("", FP, FP, FP),
    "delete":                    ("", FP, FP, ""),
    "signal 0":                  (IA, IA, IA, IA),
    "urge":                      (DONE, DONE, DONE, NF),
    "urge all":                  (DONE, DONE, DONE, NF),
    "pause":                     (FP, "", FP, FP),
    "resume":                    (FP, FP, "", FP),
    "update":                    (DONE, DONE, DONE, FP),
    "update with nonsense":      (IA, IA, IA, IA),
    "close stdin":               (DONE, DONE, DONE, DONE),
    "console":                   (FP, FP, FP, FP),
    "exec without an id":        (IA, IA, IA, IA),
    "exec a taken id":           (AE, AE, AE, AE),
    "start an unknown exec":     (NF, NF, NF, NF),
    "wait for an unknown exec":  (NF, NF, NF, NF),
    "delete an unknown exec":    (NF, NF, NF, NF),
    "signal an exec not started": (FP, FP, FP, FP),
    "resize an exec not started": (FP, FP, FP, FP),
    "create":                    (AE, AE, AE, AE),
}  # fmt: skip
STATES = (Status.CREATED, Status.RUNNING, Status.PAUSED, Status.STOPPED)


def frozen(task):
    found = task.cgroups()
    if "freezer" in found:
        return text(f"{found['freezer']}/freezer.state") == "FROZEN\n"
    return "frozen 1\n" in text(f"{found['unified']}/cgroup.events")


def test_a_signal_to_all_of_a_paused_task_waits_for_it():
    async def story(rig):
        task = await rig.run("one", "sh", "-c", "sleep 1000 & exec sleep 1000")
        await until(lambda: len(cgroups.processes(task.process().pid)) == 2)
        await task.pause()
        await task.kill(15, all_processes=True)
        assert frozen(task)
        assert len(await task.pids()) == 2
        await task.resume()
        await task.kill(9)
        await task.wait()
        await rig.delete("one")

    lived(story)


@pytest.mark.parametrize("column", range(len(STATES)), ids=[state.name.lower() for state in STATES])
def test_what_each_call_comes_to(column):
    async def story(rig):
        task = await rig.create("one", "sleep", "1000")
        await task.exec("e", json_process("true"), Stdio())
        if column >= 1:
            await task.start()
        if column == 2:
            await task.pause()
        if column == 3:
            await task.kill(9)
            await task.wait()
        for call, outcomes in TABLE.items():
            outcome = outcomes[column]
            if outcome == "":  # changes the state: the other tests' matter
                continue
            expected = contextlib.nullcontext() if outcome is DONE else pytest.raises(outcome)
            with expected:
                await asyncio.wait_for(CALLS[call](rig, task), 10)
            assert task.process().status is STATES[column], call
        if STATES[column] is Status.PAUSED:
            assert frozen(task)
        await (rig.end("one") if STATES[column] in (Status.RUNNING, Status.PAUSED) else rig.delete("one"))

    lived(story)


def test_the_table_is_whole():
    assert list(CALLS) == list(TABLE)


def test_an_update_is_in_force():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        await task.update(RESOURCES)
        assert text(f"{task.cgroups()['pids']}/pids.max") == "100\n"
        with pytest.raises(errors.Unknown, match="update the resources of container one"):
            await task.update(b'{"pids": {"limit": "many"}}')
        assert task.process().status is Status.RUNNING
        await rig.end("one")

    lived(story)


def test_cgroups_are_below_a_parent():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        assert all(path.endswith("/holdd-test/parent/holdd-test/one") for path in task.cgroups().values())
        assert cgroups.placed("/holdd-test/one") == []
        await rig.restarted()
        assert len(await rig.tasks.get("test", "one").pids()) == 1
        await rig.end("one")
        assert cgroups.placed("/holdd-test/parent/holdd-test/one") == []
        for left in ("/holdd-test/parent/holdd-test", "/holdd-test/parent"):
            cgroups.remove(left)

    lived(story, cgroup_parent="/holdd-test/parent")


def test_an_exec_of_a_created_task_runs():
    async def story(rig):
        task = await rig.create("one", "sleep", "1000")
        await task.exec("e", json_process("sh", "-c", "exit 3"), Stdio())
        await task.start("e")
        assert (await asyncio.wait_for(task.wait("e"), 10)).status == 3
        assert task.process().status is Status.CREATED
        await rig.delete("one")
        assert rig.published.topics() == [
            "/tasks/create", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/exit", "/tasks/delete"
        ]  # fmt: skip
        assert [event.id for event in rig.published.of("/tasks/exit")] == ["e", "one"]

    lived(story)
