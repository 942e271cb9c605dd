"""Asks OCI runtimes for their version and features, in a shim of its own. Knows no container."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

from daemon.runtime import facts
from daemon.runtime.bundle import clear
from daemon.runtime.oci import PATH
from daemon.runtime.shim import Finished, Shim
from daemon.runtime.words import complaint
from spec import errors
from spec.records import RuntimeVersion

SECONDS = 5.0  # for a program to say its version, or its features


class About(NamedTuple):
    """`name` is what the program calls itself, `document` what it printed as its features, b"" without."""

    name: str
    version: RuntimeVersion
    document: bytes
    features: facts.Features


class Probes:
    """`shim` makes the shim that serves a directory, or finds it again: that is `directory`, which is there only while
    a program is asked. None is asked twice while its file is the same."""

    def __init__(self, directory: str, shim: Callable[[str], Coroutine[Any, Any, Shim]]) -> None:
        self._directory = directory
        self._shim = shim
        self._known: dict[tuple[object, ...], About] = {}
        self._asking = asyncio.Lock()

    async def about(self, path: str) -> About:
        """Of the program at the absolute `path`. Why it cannot be run; DeadlineExceeded when it does not answer in
        time, Unknown when it does not tell its version."""
        doing = f"ask runtime {path} for its version"
        try:
            status = os.stat(path)
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        key = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        async with self._asking:
            if key not in self._known:
                self._known[key] = await self._ask(path, doing)
        return self._known[key]

    async def _ask(self, path: str, doing: str) -> About:
        async with self._attended() as shim:
            told = await self._run(shim, path, "--version", doing)
            if told.status != 0:
                raise errors.Unknown(f"{doing}: {complaint(b'', told.output, told.status)}")
            listed = await self._run(shim, path, "features", f"ask runtime {path} for its features")
        name, version = facts.version(told.output)
        document, read = facts.features(listed.output if listed.status == 0 else b"")
        return About(name, version, document, read)

    @contextlib.asynccontextmanager
    async def _attended(self) -> AsyncIterator[Shim]:
        """A shim, which is gone in the end, also when nobody waits for it any more while it is forked."""
        forking = asyncio.ensure_future(self._shim(self._directory))
        try:
            yield await asyncio.shield(forking)
        finally:
            try:
                await (await forking).shutdown()
            finally:
                clear(self._directory)

    async def _run(self, shim: Shim, path: str, word: str, doing: str) -> Finished:
        try:
            return await shim.run([path, word], env=[PATH], timeout=SECONDS)
        except errors.NotFound as exc:
            raise errors.FailedPrecondition(f"{doing}: {exc.message}") from exc
        except errors.Error as exc:
            raise type(exc)(f"{doing}: {exc.message}") from exc
