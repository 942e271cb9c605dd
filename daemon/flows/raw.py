"""One object of a registry, as it is, into a descriptor: nothing is stored. Over ports only."""

from dataclasses import dataclass

from daemon.flows.outlet import Outlet
from daemon.kit.cancel import Token
from spec import digest as digests
from spec import errors
from spec.oci import image
from spec.oci.image import Descriptor
from spec.ports import Resolver, Source

CHUNK = 1 << 20


@dataclass(frozen=True)
class Raw:
    """The bytes of `digest` ("" for what `reference` names) go to `fd`, which stays the caller's. Without `media_type`
    it is looked for among the blobs and then among the manifests.

    DataLoss when the bytes turn out to be others; they have been written by then.
    """

    reference: str
    resolver: Resolver
    fd: int
    cancel: Token
    digest: str = ""
    media_type: str = ""

    def run(self) -> None:
        outlet = Outlet(self.fd, f"handing on what came of {self.reference}", self.cancel)
        source, digest = self._open()
        running = digests.hasher(digests.split(digest)[0])
        try:
            while data := source.read(CHUNK):
                running.update(data)
                outlet.write(data)
        finally:
            source.close()
        if running.hexdigest() != digests.split(digest)[1]:
            raise errors.DataLoss(f"fetching {digest} of {self.reference}: what came is {running.hexdigest()}")

    def _open(self) -> tuple[Source, str]:
        fetcher = self.resolver.fetcher(self.reference)
        if not self.digest:
            target = self.resolver.resolve(self.reference)
            return fetcher.fetch(target), target.digest
        digests.check(self.digest)
        if self.media_type:
            return fetcher.fetch(Descriptor(media_type=self.media_type, digest=self.digest)), self.digest
        try:
            return fetcher.fetch(Descriptor(digest=self.digest)), self.digest
        except errors.NotFound:
            return fetcher.fetch(Descriptor(media_type=image.OCI_MANIFEST, digest=self.digest)), self.digest
