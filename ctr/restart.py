"""What ctr tells the restart monitor of containers that it looks after: that they shall run, or were stopped."""

import contextlib
import signal
from collections.abc import Iterator

from msgspec.structs import replace

from daemon.client.client import Client
from spec import errors, names, restart
from spec.api import containers
from spec.records import Container

ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)


def asked(policy: str, log_uri: str) -> dict[str, str]:
    """Labels of a container with this policy, to bear from the beginning. InvalidArgument."""
    restart.policy(policy)
    return {names.RESTART_POLICY: policy, **({names.RESTART_LOG_URI: log_uri} if log_uri else {})}


def begin(client: Client, id: str) -> None:
    """From now on it shall run."""
    _label(client, Container(id=id, labels={names.RESTART_STATUS: restart.RUNNING}))


def resume(client: Client, record: Container) -> None:
    """It is started: that somebody stopped it is no longer so."""
    if names.RESTART_STOPPED in record.labels:
        _label(client, replace(record, labels={names.RESTART_STOPPED: ""}))


@contextlib.contextmanager
def stopping(client: Client, id: str) -> Iterator[None]:
    """Have it marked as stopped before the block stops it; no longer so, should that fail."""
    try:
        record = client.containers.get(containers.GetRequest(id=id))
    except errors.NotFound:
        yield
        return
    marked = names.RESTART_STATUS in record.labels and record.labels.get(names.RESTART_STOPPED) != "true"
    if marked:
        _label(client, replace(record, labels={names.RESTART_STOPPED: "true"}))
    try:
        yield
    except BaseException:
        if marked:
            with contextlib.suppress(errors.Error):
                _label(client, replace(record, labels={names.RESTART_STOPPED: ""}))
        raise


def _label(client: Client, changed: Container) -> None:
    fields = [f"labels.{key}" for key in changed.labels]
    client.containers.update(containers.UpdateRequest(container=changed, fields=fields))
