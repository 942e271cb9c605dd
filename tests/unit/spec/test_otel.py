"""Which environment asks for what."""

import pytest

from spec import errors, otel

URL = "http://127.0.0.1:4318"
ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        ON | {"OTEL_SDK_DISABLED": "TRUE"},
        ON | {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_off(environment):
    assert otel.settings(environment) is None


@pytest.mark.parametrize(
    ("environment", "fields"),
    [
        ({}, {"url": f"{URL}/v1/traces", "service": "holdd", "ratio": 1.0, "follows": True, "timeout_s": 10.0}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{URL}/"}, {"url": f"{URL}/v1/traces"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x"}, {"url": "https://c/x"}),
        ({"OTEL_SERVICE_NAME": "me", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}, {"service": "me"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=me,a=b%2Cc"}, {"service": "me", "resource": {"a": "b,c"}}),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "k=v, Authorization=Basic%20x"},
         {"headers": {"k": "v", "Authorization": "Basic x"}}),
        ({"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1500"}, {"timeout_s": 1.5}),
        ({"OTEL_BSP_SCHEDULE_DELAY": "100"}, {"delay_s": 0.1}),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, {"ratio": 0.0, "follows": False}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {"ratio": 0.0, "follows": True}),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, {"ratio": 0.25, "follows": False}),
    ],
)  # fmt: skip
def test_on(environment, fields):
    found = otel.settings(ON | environment)
    assert {name: getattr(found, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///x"}, "unix:///x"),
        ({"OTEL_TRACES_SAMPLER": "coin"}, "coin"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "above 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "nan"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "-1"}, "-1"),
    ],
)
def test_what_makes_no_sense(environment, named):
    with pytest.raises(errors.InvalidArgument, match=named):
        otel.settings(ON | environment)
