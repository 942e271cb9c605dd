"""What OpenTelemetry's environment variables ask for (its SDK and OTLP exporter specifications). Pure."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from spec import errors


class Settings(NamedTuple):
    """`ratio` is the share of traces of our own that are exported; `follows` lets a parent's word count instead."""

    url: str
    headers: Mapping[str, str]
    service: str = "holdd"
    resource: Mapping[str, str] = {}
    ratio: float = 1.0
    follows: bool = True
    timeout_s: float = 10.0
    delay_s: float = 5.0


def settings(environment: Mapping[str, str]) -> Settings | None:
    """What the environment asks for; None when nothing shall be exported. InvalidArgument for what makes no sense."""
    url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or ""
    if not url and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        url = f"{base.rstrip('/')}/v1/traces"
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    if not url or environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return None
    if exporter != "otlp":
        raise errors.InvalidArgument(f"tracing: OTEL_TRACES_EXPORTER {exporter!r} is not known; otlp and none are")
    protocol = _of_otlp(environment, "PROTOCOL") or "http/json"
    if not protocol.startswith("http/"):
        raise errors.InvalidArgument(f"tracing: protocol {protocol!r} is not spoken; http/json is")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise errors.InvalidArgument(f"tracing: endpoint {url!r} is no http address")
    resource = _pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    ratio, follows = _sampler(environment)
    return Settings(
        url=url,
        headers=_pairs(_of_otlp(environment, "HEADERS")),
        service=environment.get("OTEL_SERVICE_NAME") or resource.pop("service.name", "holdd"),
        resource=resource,
        ratio=ratio,
        follows=follows,
        timeout_s=_number(_of_otlp(environment, "TIMEOUT") or "10000", "timeout") / 1000,
        delay_s=_number(environment.get("OTEL_BSP_SCHEDULE_DELAY") or "5000", "OTEL_BSP_SCHEDULE_DELAY") / 1000,
    )


def _of_otlp(environment: Mapping[str, str], name: str) -> str:
    """The variable for traces, else the one for all that is exported."""
    return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(f"OTEL_EXPORTER_OTLP_{name}") or ""


def _sampler(environment: Mapping[str, str]) -> tuple[float, bool]:
    name = environment.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    kind = name.removeprefix("parentbased_")
    ratios = {"always_on": 1.0, "always_off": 0.0}
    if kind == "traceidratio":
        ratio = _number(environment.get("OTEL_TRACES_SAMPLER_ARG") or "1", "OTEL_TRACES_SAMPLER_ARG")
        if ratio > 1:
            raise errors.InvalidArgument("tracing: OTEL_TRACES_SAMPLER_ARG is above 1")
    elif kind in ratios:
        ratio = ratios[kind]
    else:
        raise errors.InvalidArgument(f"tracing: OTEL_TRACES_SAMPLER {name!r} is not known")
    return ratio, name != kind


def _pairs(text: str) -> dict[str, str]:
    """`key=value,key=value`, percent-encoded."""
    parts = (part.partition("=") for part in text.split(",") if "=" in part)
    return {unquote(key.strip()): unquote(value.strip()) for key, _, value in parts}


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not number >= 0:
        raise errors.InvalidArgument(f"tracing: {what} {text!r} is no number from 0 on")
    return number
