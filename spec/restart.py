"""What the restart monitor does about a container, by its labels and its task. Pure.

The labels and their meaning are containerd's (its restart monitor): `restart.status` says whether the container shall
be running or stopped, and whoever does not bear it is left alone; `restart.policy` when it is started again;
`restart.count` how often that was done; `restart.explicitly-stopped` that somebody stopped it.

Three more are ours. A restart is planned before anything is done for it: `restart.at` is when it is due, and
`restart.after` which exit it answers (nanoseconds since the epoch; none when there was no task). Once the container
runs the plan goes, in the write that counts it. So whoever finds a plan carries it out, however often the daemon was
killed meanwhile, and none is done or counted twice. `restart.backoff` is the delay that was last planned, in seconds.
"""

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from spec import errors
from spec.edges import time_of
from spec.names import (
    RESTART_AFTER,
    RESTART_AT,
    RESTART_BACKOFF,
    RESTART_COUNT,
    RESTART_POLICY,
    RESTART_STATUS,
    RESTART_STOPPED,
)
from spec.records import Status

RUNNING, STOPPED = "running", "stopped"  # values of restart.status
NO, ALWAYS, ON_FAILURE, UNLESS_STOPPED = KINDS = ("no", "always", "on-failure", "unless-stopped")
JITTER = 0.25  # the share of a delay that is left to chance, so that many do not come back at once

Labels = Mapping[str, str]


class Policy(NamedTuple):
    """One of KINDS; `maximum` restarts on-failure, 0 for any number."""

    kind: str
    maximum: int = 0


class Delays(NamedTuple):
    """In seconds. A restart waits `first`, the next one twice as long, up to `longest`; one of a container that ran for
    `reset` waits `first` again. A container without a task has `grace` to get one by whoever made it."""

    first: float = 0.1
    longest: float = 60.0
    reset: float = 10.0
    grace: float = 5.0


class Seen(NamedTuple):
    """A container's task: the last three count once it has STOPPED, `ran_s` being how long it ran."""

    status: Status
    exit_status: int = 0
    exited_at_ns: int = 0
    ran_s: float = 0.0


class Moment(NamedTuple):
    """When a container is looked at: the time, how long it has had no task, and a number from 0 to 1 by chance."""

    now_ns: int
    idle_s: float = 0.0
    chance: float = 0.0


class Do(enum.Enum):
    """NOTHING: it is as it shall be. STOP: kill the task and delete it. NOTE: change labels, and look again. START:
    carry out what is planned."""

    NOTHING = enum.auto()
    STOP = enum.auto()
    NOTE = enum.auto()
    START = enum.auto()


class Verdict(NamedTuple):
    """`labels` are what is to be changed ("" removes one). After `wait_s` seconds, or when something happened, it is
    looked at again; with START that is when to do it."""

    do: Do
    labels: Labels = {}
    wait_s: float = 0.0


def policy(text: str) -> Policy:
    """Empty means always. InvalidArgument for what is none."""
    kind, colon, maximum = text.partition(":")
    if not text:
        return Policy(ALWAYS)
    if kind in KINDS and not colon:
        return Policy(kind)
    if kind == ON_FAILURE and maximum.isascii() and maximum.isdigit():
        return Policy(kind, int(maximum[:18]))
    raise errors.InvalidArgument(
        f"restart policy {text!r} is none of {NO}, {ALWAYS}, {ON_FAILURE}, {ON_FAILURE}:N and {UNLESS_STOPPED}"
    )


def decide(labels: Labels, task: Seen | None, delays: Delays, moment: Moment) -> Verdict:
    """What to do about a container; InvalidArgument for a policy that is none."""
    wish = labels.get(RESTART_STATUS, "")
    if wish == STOPPED and task is not None and task.status is not Status.STOPPED:
        return Verdict(Do.STOP)
    if wish != RUNNING:
        return _noted(_unplanned(labels))
    planned = RESTART_AT in labels
    if task is not None and task.status in (Status.RUNNING, Status.PAUSED, Status.PAUSING, Status.UNKNOWN):
        return _noted(_counted(labels) if planned else {})
    asked = policy(labels.get(RESTART_POLICY, ""))
    if asked.kind == NO or (asked.kind == UNLESS_STOPPED and labels.get(RESTART_STOPPED) == "true"):
        return _noted(_unplanned(labels))
    if not planned:
        return _answer(labels, asked, task, delays, moment)
    if task is not None and task.status is Status.STOPPED and str(task.exited_at_ns) != labels.get(RESTART_AFTER):
        counted = _counted(labels)  # what was planned was done, and has ended
        answer = _answer({**labels, **counted}, asked, task, delays, moment)
        return Verdict(Do.NOTE, {**counted, **answer.labels})
    return Verdict(Do.START, wait_s=_until(labels[RESTART_AT], delays, moment))


def put_off(labels: Labels, delays: Delays, moment: Moment) -> Labels:
    """The labels of a plan that could not be carried out: it is due later."""
    return _planned(_next(labels, delays, ran_s=0.0), moment)


def _answer(labels: Labels, asked: Policy, task: Seen | None, delays: Delays, moment: Moment) -> Verdict:
    """To an exit, or to there being no task."""
    if task is None:
        if asked.kind == ON_FAILURE:
            return Verdict(Do.NOTHING)  # nothing failed
        if moment.idle_s < delays.grace:
            return Verdict(Do.NOTHING, wait_s=delays.grace - moment.idle_s)
        return Verdict(Do.NOTE, _planned(0.0, moment))
    if task.status is not Status.STOPPED:
        return Verdict(Do.NOTHING)  # created: whoever did starts it
    if asked.kind == ON_FAILURE and (not task.exit_status or 0 < asked.maximum <= count(labels)):
        return Verdict(Do.NOTHING)
    plan = _planned(_next(labels, delays, task.ran_s), moment)
    return Verdict(Do.NOTE, {**plan, RESTART_AFTER: str(task.exited_at_ns)})


def count(labels: Labels) -> int:
    """How often it was started again."""
    text = labels.get(RESTART_COUNT, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _next(labels: Labels, delays: Delays, ran_s: float) -> float:
    """The delay of the next restart, in seconds."""
    try:
        last = float(labels.get(RESTART_BACKOFF, ""))
    except ValueError:
        last = 0.0
    if ran_s >= delays.reset or not delays.first / 2 <= last <= delays.longest:
        return min(delays.first, delays.longest)
    return min(2 * last, delays.longest)


def _planned(delay_s: float, moment: Moment) -> dict[str, str]:
    due = moment.now_ns / 1e9 + delay_s * (1 - JITTER * moment.chance)
    at = datetime.fromtimestamp(due, UTC).isoformat(timespec="milliseconds")
    return {RESTART_AT: at, RESTART_BACKOFF: f"{delay_s:g}"}


def _until(at: str, delays: Delays, moment: Moment) -> float:
    """Seconds until a plan is due; never longer than the longest delay, whatever the clock did."""
    due = time_of(at)
    return min(max(due - moment.now_ns / 1e9, 0.0), delays.longest) if due is not None else 0.0


def _unplanned(labels: Labels) -> dict[str, str]:
    return {key: "" for key in (RESTART_AT, RESTART_AFTER) if key in labels}


def _counted(labels: Labels) -> dict[str, str]:
    return {**_unplanned(labels), RESTART_COUNT: str(count(labels) + 1)}


def _noted(labels: Labels) -> Verdict:
    return Verdict(Do.NOTE, labels) if labels else Verdict(Do.NOTHING)
