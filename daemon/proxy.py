"""Components in other processes, as the configuration's `proxy_plugins` names them: ports over our own protocol.

Nothing is asked of one before it is used: one that is down, or comes later, is no matter to the daemon's start. What
serves one is `daemon.serve`, or whatever speaks spec/PROTOCOL.md.
"""

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from daemon.client.client import Client, Pool, Stream
from daemon.client.connection import Connection
from daemon.client.proxies import RemoteApplied, RemoteContent, RemoteDiffer, RemoteSnapshotter
from daemon.config import ProxyPlugin
from daemon.kit import context
from spec import errors
from spec.api.service import Method
from spec.base import Request
from spec.oci.image import Descriptor
from spec.ports import Cancel
from spec.types import Mount

Q = TypeVar("Q", bound=Request)
R = TypeVar("R")

DIAL_S = 3.0  # how long a call waits for a plugin that is not there: it may be starting again
FIRST_PAUSE_S = 0.01
NAMESPACE = "default"  # of what the daemon asks for itself, since most methods want one


class Dialer(Pool):
    """Connections to a plugin that may be starting again: the first call to find nobody waits a little for it, and
    those that follow try once, until somebody answers."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._down = False

    def take(self, deadline: float | None) -> Connection:
        end = time.monotonic() + (0 if self._down else DIAL_S)
        end = end if deadline is None else min(end, deadline)
        pause = FIRST_PAUSE_S
        while True:
            try:
                connection = super().take(deadline)
            except errors.Unavailable:
                if time.monotonic() + pause > end:
                    self._down = True
                    raise
                time.sleep(pause)
                pause *= 2
            else:
                self._down = False
                return connection


class Peer(Client):
    """The client of one plugin. Calls go to the namespace of the call that they are a part of, and when the plugin does
    not answer the error names it."""

    def __init__(self, name: str, plugin: ProxyPlugin) -> None:
        super().__init__(plugin.address, timeout_s=plugin.timeout_s or None, pool=Dialer(plugin.address))
        self._name = name

    def close(self) -> None:
        self._pool.close()

    def unary(self, method: Method[Q, R], request: Q, fds: Sequence[int]) -> tuple[R, list[int]]:
        with self._named():
            return self._here().unary(method, request, fds)

    def server_stream(self, method: Method[Q, R], request: Q, fds: Sequence[int] = ()) -> Stream[Q, R]:
        with self._named():
            return self._here().server_stream(method, request, fds)

    def duplex(self, method: Method[Q, R]) -> Stream[Q, R]:
        with self._named():
            return self._here().duplex(method)

    def _here(self) -> Client:
        return self.using(context.namespace_or_empty() or NAMESPACE, context.lease())

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (errors.Unavailable, errors.DeadlineExceeded) as exc:
            raise type(exc)(f"proxy plugin {self._name}: {exc.message}") from exc


class ProxySnapshotter(RemoteSnapshotter):
    """A ports.Snapshotter."""

    def __init__(self, name: str, plugin: ProxyPlugin) -> None:
        self._peer = Peer(name, plugin)
        self._capabilities = frozenset(plugin.capabilities)
        self.exports = {**plugin.exports, "address": plugin.address}
        self.platforms = (plugin.platform,) if plugin.platform else ()
        super().__init__(self._peer, name)

    @property
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    def close(self) -> None:
        self._peer.close()


class ProxyContent(RemoteContent):
    """A ports.ContentStore."""

    def __init__(self, name: str, plugin: ProxyPlugin) -> None:
        self._peer = Peer(name, plugin)
        self.exports = {**plugin.exports, "address": plugin.address}
        super().__init__(self._peer)

    def close(self) -> None:
        self._peer.close()


class ProxyDiffer(RemoteDiffer):
    """A ports.Differ of blobs that the plugin finds by itself, in the namespace of the call. With `sync_fs` it is asked
    to make durable what it applies. It is handed mounts that anybody can mount: no layer apart from those below."""

    def __init__(self, name: str, plugin: ProxyPlugin, sync_fs: bool = False) -> None:
        self._peer = Peer(name, plugin)
        self.exports = {**plugin.exports, "address": plugin.address}
        self.platforms = (plugin.platform,) if plugin.platform else ()
        super().__init__(self._peer, sync_fs=sync_fs)

    def apply(self, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None) -> RemoteApplied:
        options = {option.partition("=")[0] for mount in mounts for option in mount.options}
        if "upperdir" in options and "lowerdir" not in options:
            raise errors.FailedPrecondition(f"applying layer {layer.digest}: a proxy plugin needs the layers below")
        return super().apply(layer, mounts, cancel)

    def paid(self, payloads: Mapping[str, bytes]) -> "ProxyDiffer":
        """The same, with payloads for its stream processors."""
        made = copy.copy(self)
        made._payloads = dict(payloads)
        return made

    def close(self) -> None:
        self._peer.close()
