"""Stores of one namespace without a daemon, and the flows that pull into them and push from them."""

from contextlib import closing

from daemon.content.local import LocalContent
from daemon.diff.applier import ArchiveApplier
from daemon.events.exchange import Exchange
from daemon.flows.crew import Crew
from daemon.flows.pull import Pull, Target
from daemon.flows.push import Push
from daemon.flows.unpack import Unpacker
from daemon.images.resolver import RegistryResolver
from daemon.kit.cancel import Token
from daemon.kit.dictkv import DictKV
from daemon.kit.keylock import Once
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.scoped.content import ScopedContent
from daemon.scoped.images import ScopedImages
from daemon.snapshots.overlay import Overlay
from spec import platforms, reference


class House:
    """One namespace's stores below `directory`, and what pulls into them. `applier` wraps the real one."""

    def __init__(self, directory, snapshotter=Overlay, applier=lambda real: real, sync=True):
        self.store = Store(str(directory / "metadata"), sync=False)
        exchange = Exchange()
        self.content = ScopedContent(LocalContent(str(directory / "content"), False), self.store, exchange, "ns")
        self.images = ScopedImages(self.store, exchange, "ns")
        self.snapshots = snapshotter(str(directory / "snapshots"), DictKV())
        self.applier = applier(ArchiveApplier(self.content))
        self.sync = sync
        self.ranges = None
        self.keep = lambda chain_id: None
        self.pool = Pool("downloads", 3)
        self.once = Once()
        self.unpacks = Pool("unpacks", 5)
        self.crew = Crew(self.unpacks.executor, 2)
        self.told = []

    def pull(self, text, cancel=None, platform="linux/amd64", **registry):
        """`registry` are a resolver's arguments."""
        resolver = RegistryResolver(ranges=self.ranges, **registry)
        cancel = cancel or Token()
        matcher = platforms.only(platforms.parse(platform))
        unpacker = Unpacker(
            "sn", self.snapshots, self.applier, self.once, "ns", self.crew, self.sync, self.keep
        )
        try:
            return Pull(
                reference=str(reference.parse(text)), name=text, resolver=resolver, content=self.content,
                images=self.images, targets=[Target(unpacker, matcher)], matchers=[matcher], wanted=platform,
                pool=self.pool.executor, once=self.once, scope="ns", sink=self.told.append, cancel=cancel,
            ).run()  # fmt: skip
        finally:
            resolver.close()

    def push(self, name, text, **registry):
        """The image `name` as `text`."""
        with closing(RegistryResolver(**registry)) as resolver:
            return Push(
                name=name, target=self.images.get(name).target, reference=reference.parse(text), registry=resolver,
                content=self.content, matchers=(), wanted="", pool=self.pool.executor, sink=self.told.append,
                cancel=Token(),
            ).run()  # fmt: skip

    def made(self):
        return [*self.images.list(), *self.snapshots.list()]

    def close(self):
        self.pool.close()
        self.unpacks.close()
        self.snapshots.close()
        self.store.close()
