"""Unpacking: an image's layers become snapshots, each named by its chain id. Over ports only.

Where the snapshotter can rebase, layers are unpacked side by side, each while it arrives, and committed in order of the
chain; elsewhere one after the other. Data of all that are committed together is synced once.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial

from daemon.flows.arrival import Arrival
from daemon.flows.crew import Crew
from daemon.flows.layer import Layers, Made, Step
from daemon.flows.progress import Report
from daemon.kit import tracing
from daemon.kit.cancel import Token
from daemon.kit.keylock import Flight, Once
from spec import digest as digests
from spec import errors
from spec.oci.image import Descriptor
from spec.ports import Applier, Snapshotter

WRITE_BACK_S = 0.5  # how often what is being unpacked is sent to the disk: what a slow link brings in so long is little


class Unpacker:
    """Unpacks into one snapshotter. Whoever wants a chain id that another is making waits for it: `once` is shared, and
    `scope` tells equal chain ids of different namespaces apart. The same layer in two chains is unpacked in both: what
    it makes belongs to one snapshot. `keep` makes a snapshot that is there already the call's lease's; those that are
    made get `labels`, too."""

    def __init__(
        self,
        name: str,
        snapshotter: Snapshotter,
        applier: Applier,
        once: "Once[None]",
        scope: str,
        crew: Crew,
        sync: bool = True,
        keep: Callable[[str], None] = lambda chain_id: None,
        labels: Mapping[str, str] = {},
    ) -> None:
        self.name = name
        self.crew = crew
        self.layers = Layers(snapshotter, applier, sync, keep)
        self._once = once
        self._scope = scope
        self._labels = dict(labels)

    def begin(self, chain_id: str) -> "Flight[None]":
        """The making of a chain id: ours to do, or another's to wait for."""
        return self._once.begin(f"{self._scope}/{self.name}/{chain_id}")

    def unpack(
        self,
        layers: Sequence[Descriptor],
        diff_ids: Sequence[str],
        arrivals: Mapping[str, Arrival],
        report: Report,
        cancel: Token,
        text: str,
    ) -> str:
        """Unpack what is missing; the chain id of them all. `arrivals` are the layers' bytes, by digest; errors call
        the image `text`.

        When one fails, those below it that were done are committed, and nothing is left of the others.
        """
        chain = digests.chain_ids(diff_ids)
        parents = ["", *chain]
        steps = [Step(*step, self._labels) for step in zip(layers, diff_ids, chain, parents[:-1], strict=True)]
        missing = steps[self._done(chain) :]
        if missing:
            _Climb(self, missing, arrivals, report, cancel.child(), text).run()
        return parents[-1]

    def _done(self, chain_ids: Sequence[str]) -> int:
        """How many of the layers are unpacked: the deepest chain id that is known ends the work."""
        known = (count for count in range(len(chain_ids), 0, -1) if self.layers.has(chain_ids[count - 1]))
        return next(known, 0)


class _Climb:
    """One image's missing layers, from the lowest to the top.

    The flights of all of them are ours or another's from the start. So that two climbs never wait for each other, ours
    land in order of the chain, and those below land before we wait for another's.
    """

    def __init__(
        self, unpacker: Unpacker, steps: Sequence[Step], arrivals: Mapping[str, Arrival], report: Report, cancel: Token,
        text: str,
    ) -> None:  # fmt: skip
        self._unpacker = unpacker
        self._layers = unpacker.layers
        self._steps = steps
        self._arrivals = arrivals
        self._report = report
        self._cancel = cancel
        self._text = text
        self._flights: dict[str, Flight[None]] = {}
        self._jobs: dict[str, Future[Made | None]] = {}
        self._batch: list[Made] = []
        self._failures: list[BaseException] = []

    def run(self) -> None:
        try:
            if self._layers.rebases:
                self._start()
            for step in self._steps:
                self._climb(step)
            self._flush()
        except BaseException as exc:
            self._abandon(exc)
            if self._failures and isinstance(exc, errors.Canceled):
                raise self._failures[0] from None  # what the rest was cancelled for
            raise

    def _start(self) -> None:
        """All that are ours begin as their bytes do."""
        for step in self._steps:
            flight = self._flights[step.chain_id] = self._unpacker.begin(step.chain_id)
            if flight.mine:
                work = partial(copy_context().run, self._apart, step)
                job = self._unpacker.crew.start(self._arrival(step).begun, work)
                self._jobs[step.chain_id] = job
                job.add_done_callback(self._ended)

    def _climb(self, step: Step) -> None:
        """One layer: once it returns it is committed, or in the batch."""
        if not self._ours(step):
            return
        made = self._job(step)
        if made is not None and not self._settle(made):
            self._layers.drop(made)
            made = None
        if made is None:
            self._flush()
            if self._layers.has(step.chain_id):
                self._flights[step.chain_id].land(None)
                return
            made = self._unpack(step, self._layers.on_parent)
        if made is not None:
            self._batch.append(made)

    def _ours(self, step: Step) -> bool:
        """Whether it is ours to make; else another has made it, and it stays."""
        while True:
            flight = self._flights.get(step.chain_id) or self._unpacker.begin(step.chain_id)
            self._flights[step.chain_id] = flight
            if flight.mine:
                return True
            self._flush()  # the other may wait for those below
            if flight.landed(self._cancel) and self._layers.has(step.chain_id):
                return False
            del self._flights[step.chain_id]

    def _job(self, step: Step) -> Made | None:
        """What has been made of it apart from its parent, if it was."""
        job = self._jobs.get(step.chain_id)
        if job is None:
            return None
        if not job.done():
            self._flush()  # while there is time
        while not wait([job], WRITE_BACK_S).done:
            self._layers.write_back()
        try:
            return job.result()
        except CancelledError:
            raise errors.Canceled(f"unpacking {step.layer.digest}: it was not begun") from None

    def _apart(self, step: Step) -> Made | None:
        return None if self._layers.has(step.chain_id) else self._unpack(step, self._layers.apart)

    def _unpack(self, step: Step, way: Callable[..., Made | None]) -> Made | None:
        """By one of the two ways of Layers, from a blob that is verified when this returns. What is wrong with the blob
        goes before what came of it."""
        with tracing.span("unpack", digest=step.layer.digest, snapshotter=self._unpacker.name):
            return self._unpack_traced(step, way)

    def _unpack_traced(self, step: Step, way: Callable[..., Made | None]) -> Made | None:
        arrival = self._arrival(step)
        try:
            made = self._read(step, way, arrival)
        except errors.Error:
            arrival.wait(self._cancel)
            if not arrival.is_second:
                raise
            return self._read(step, way, arrival)
        try:
            arrival.wait(self._cancel)
        except BaseException:
            if made is not None:
                self._layers.drop(made)
            raise
        return made

    def _read(self, step: Step, way: Callable[..., Made | None], arrival: Arrival) -> Made | None:
        """Unpack what comes of it."""
        with self._during(step), self._unpacker.crew.turn(self._cancel) as turn:
            self._tell("extracting", step, 0)
            source = arrival.source(turn, self._cancel)
            try:
                return way(step, source, self._cancel)
            except errors.Unimplemented:  # there may be who takes it as a blob
                with turn.rest():
                    arrival.wait(self._cancel)
                return way(step, None, self._cancel)
            finally:
                source.close()

    def _during(self, step: Step) -> AbstractContextManager[None]:
        return errors.during(f"unpacking {step.layer.digest} of {self._text}")

    def _settle(self, made: Made) -> bool:
        with self._during(made.step):
            return self._layers.settle(made, self._batch)

    def _flush(self) -> None:
        """Commit the batch, lowest first."""
        if self._batch:
            with tracing.span("sync"), self._during(self._batch[-1].step):
                self._layers.sync(self._batch[-1])
        while self._batch:
            made = self._batch[0]
            with tracing.span("commit", name=made.step.chain_id), self._during(made.step):
                self._layers.commit(made)
            self._batch.pop(0)
            self._flights[made.step.chain_id].land(None)
            self._tell("extracted", made.step, made.step.layer.size)

    def _abandon(self, exc: BaseException) -> None:
        """End what runs, keep what is done in order, and remove the rest."""
        self._cancel.cancel("another part of the unpacking failed")
        for job in self._jobs.values():
            job.cancel()
        wait(self._jobs.values())
        made = {id(result): result for job in self._jobs.values() if (result := _result(job)) is not None}
        for kept in self._batch:
            made.pop(id(kept), None)
        try:
            self._flush()
        except (errors.Error, OSError):  # the first failure is told
            made |= {id(lost): lost for lost in self._batch}
        for lost in made.values():
            self._layers.drop(lost)
        for flight in self._flights.values():
            if flight.mine:
                flight.fail(exc)

    def _ended(self, job: "Future[Made | None]") -> None:
        """The first that fails ends the others."""
        failure = None if job.cancelled() else job.exception()
        if failure is not None and not isinstance(failure, errors.Canceled):
            self._failures.append(failure)
            self._cancel.cancel("another part of the unpacking failed")

    def _arrival(self, step: Step) -> Arrival:
        return self._arrivals[step.layer.digest]

    def _tell(self, event: str, step: Step, progress: int) -> None:
        self._report.tell_part(event, f"layer-{step.layer.digest}", progress, step.layer.size)


def _result(job: "Future[Made | None]") -> Made | None:
    return None if job.cancelled() or job.exception() is not None else job.result()
