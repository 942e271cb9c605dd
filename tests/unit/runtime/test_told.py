"""What the last events say of how tasks ended."""

import msgspec

from daemon.runtime.told import Told
from spec.base import pack
from spec.events import Envelope, TaskCreate, TaskExecAdded, TaskExit, TaskOOM, TaskStart, topic_of


def envelopes(*events, namespace="ns"):
    return [
        Envelope(timestamp_ns=0, topic=topic_of(event), namespace=namespace, event=msgspec.Raw(pack(event)))
        for event in events
    ]


INIT = TaskExit(container_id="c", id="c", pid=1, exit_status=3)
EXEC = TaskExit(container_id="c", id="e", pid=2)


def test_exits_by_exec_id_and_pid():
    ends = Told(envelopes(TaskCreate(container_id="c"), TaskStart(container_id="c"), EXEC, INIT)).of("ns", "c")
    assert ends.exit("", 1) == INIT
    assert ends.exit("e", 2) == EXEC
    assert ends.exit("", 2) is None
    assert not ends.oom


def test_nothing_of_other_tasks():
    told = Told([*envelopes(INIT, TaskOOM(container_id="c")), *envelopes(EXEC, namespace="other")])
    assert told.of("ns", "d") == Told(()).of("ns", "c")
    assert told.of("other", "c").exit("", 1) is None
    assert told.of("other", "c").exit("e", 2) == EXEC


def test_a_task_made_anew_has_told_nothing():
    again = Told(envelopes(TaskOOM(container_id="c"), EXEC, INIT, TaskCreate(container_id="c"))).of("ns", "c")
    assert again.exit("", 1) is again.exit("e", 2) is None
    assert not again.oom


def test_an_exec_made_anew_has_told_nothing():
    ends = Told(envelopes(EXEC, INIT, TaskExecAdded(container_id="c", exec_id="e"))).of("ns", "c")
    assert ends.exit("e", 2) is None
    assert ends.exit("", 1) == INIT


def test_what_clients_publish_under_such_a_topic_is_no_harm():
    foreign = [Envelope(timestamp_ns=0, topic="/tasks/exit", namespace="ns", event=msgspec.Raw(body))
               for body in (b"\xc0", b"\x81\xa2id\x01", b"\x80")]  # fmt: skip
    assert Told([*foreign, *envelopes(INIT)]).of("ns", "c").exit("", 1) == INIT
