"""Calls as spans: an observer of the dispatcher's."""

from daemon.kit import tracing
from daemon.transport.dispatch import Observed
from spec.errors import CLASSES


class Tracing:
    def begun(self, call: Observed) -> None:
        attributes: dict[str, tracing.Attribute] = {
            "rpc.system": "holdd", "rpc.service": call.service, "rpc.method": call.method,
        }  # fmt: skip
        if call.namespace:
            attributes["holdd.namespace"] = call.namespace
        call.span = tracing.begin(f"{call.service}/{call.method}", tracing.SERVER, call.trace, attributes)
        call.trace = call.span.traceparent

    def ended(self, call: Observed, code: int) -> None:
        if call.span is not None:
            call.span.attributes["rpc.holdd.status_code"] = code
            call.span.end(CLASSES[code].__name__ if code in CLASSES else "")
