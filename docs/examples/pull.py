"""Pull an image and show how it goes: python pull.py ADDRESS REFERENCE"""

import sys

from daemon.client import connect
from spec.api.images import GetRequest
from spec.api.transfer import ImageStore, Registry, TransferRequest, Unpack


def main(address: str, reference: str) -> None:
    with connect(address, namespace="default") as client:
        request = TransferRequest(
            source=Registry(reference=reference),
            destination=ImageStore(name=reference, unpacks=[Unpack()]),
        )
        for progress in client.transfer.transfer(request):  # an error of the pull is raised here
            print(f"{progress.event} {progress.name} {progress.progress}/{progress.total}")
        image = client.images.get(GetRequest(name=reference))
        print(f"done {image.target.digest}")


if __name__ == "__main__":
    main(*sys.argv[1:])
