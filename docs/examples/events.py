"""Show events until an image is deleted: python events.py ADDRESS"""

import sys

import msgspec

from daemon.client import connect
from spec.api.events import SubscribeRequest
from spec.events import ImageDelete


def main(address: str) -> None:
    request = SubscribeRequest(filters=["topic~=/images/"])
    # Subscribing returns once the daemon listens for us: from there on nothing is missed.
    with connect(address) as client, client.events.subscribe(request) as stream:
        print("listening", flush=True)
        for envelope in stream:
            print(envelope.namespace, envelope.topic, msgspec.msgpack.decode(envelope.event), flush=True)
            if envelope.topic == "/images/delete":
                print("gone", msgspec.msgpack.decode(envelope.event, type=ImageDelete).name)
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
