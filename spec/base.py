"""Bases of every Struct, and the encoders they share.

All are frozen and keyword-only and leave defaults out of what is encoded, so that a field with a default can be added
to any of them without a migration.
"""

from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value: what metadata persists, what ports hand around, what messages carry."""


class Request(Record, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The argument of one RPC. A field it does not have is refused, so that a client's typing error shows."""


class Reply(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one RPC, or one message of a stream."""


class Event(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an event; `spec.events.TOPICS` says which topic carries which."""


class Doc(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An OCI document or a part of one: JSON with camelCase names."""


class Empty(Reply, frozen=True):
    """A result that says nothing but that the call succeeded."""


_pack = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()


def pack(value: Any) -> bytes:
    """`value` as msgpack."""
    return _pack.encode(value)


def to_json(value: Any) -> bytes:
    """`value` as JSON, on one line."""
    return _json.encode(value)
