"""ctr events."""

import argparse
import datetime
import sys

import msgspec

from ctr.output import Out
from daemon.client.client import Client
from spec.api.events import SubscribeRequest
from spec.base import to_json
from spec.events import Envelope


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print each event as one line of JSON")
    parser.add_argument(
        "--since", type=int, metavar="N", help="begin with what came after event N, as far as it is kept; 0 for all"
    )
    parser.add_argument("filters", nargs="*", help="fields are topic, namespace and event.FIELD")


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    """`time namespace topic json`, until interrupted."""
    for envelope in client.events.subscribe(SubscribeRequest(filters=args.filters, since=args.since)):
        out.line(_json(envelope) if args.json else _text(envelope))
        sys.stdout.flush()
    return 0


def _text(envelope: Envelope) -> str:
    body = to_json(msgspec.msgpack.decode(envelope.event)).decode()
    return f"{_time(envelope)} {envelope.namespace} {envelope.topic} {body}"


def _json(envelope: Envelope) -> str:
    return to_json(
        {
            "sequence": envelope.sequence,
            "timestamp": _time(envelope),
            "namespace": envelope.namespace,
            "topic": envelope.topic,
            "event": msgspec.msgpack.decode(envelope.event),
        }
    ).decode()


def _time(envelope: Envelope) -> str:
    seconds, nanoseconds = divmod(envelope.timestamp_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z"
