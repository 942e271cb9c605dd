"""Store a blob that stays as long as we want it: python lease.py ADDRESS"""

import sys

from daemon.client import connect
from daemon.client.proxies import RemoteContent
from spec.api.leases import HoldersRequest
from spec.records import LeaseResource


def main(address: str) -> None:
    with connect(address, namespace="default") as client:
        with client.leased() as kept:  # all that is made by way of `kept` is the lease's
            store = RemoteContent(kept)
            with store.writer("example") as writer:
                writer.write(b"a blob that no image refers to\n")
                digest = writer.commit()
            reply = client.leases.holders(HoldersRequest(resource=LeaseResource(type="content", id=digest)))
            print(" > ".join(step.type for step in reply.ways[0]), flush=True)
            with store.reader(digest) as reader:
                print(reader.pread(100, 0).decode(), end="")
        # The lease went with the block, as it would have gone with us: the next collection takes the blob.
        print(digest)


if __name__ == "__main__":
    main(*sys.argv[1:])
