"""The protocol's page and schema are what the tables say; `python -m tests.arch.test_protocol` writes them anew."""

import importlib
import pkgutil
from pathlib import Path

import msgspec
import pytest

import spec
import spec.api
from spec import protocol, series
from spec.api.service import Service

FOLDER = Path(spec.__file__).parent
FILES = {
    "PROTOCOL.md": lambda: protocol.page().encode(),
    "METRICS.md": lambda: series.page().encode(),
    "holdd.schema.json": protocol.schema,
}
REFRESH = "python -m tests.arch.test_protocol"


def services() -> set[type[Service]]:
    for module in pkgutil.iter_modules(spec.api.__path__):
        importlib.import_module(f"spec.api.{module.name}")
    return set(Service.__subclasses__())


@pytest.mark.parametrize("name", FILES)
def test_file_is_fresh(name: str) -> None:
    path = FOLDER / name
    written = path.read_bytes() if path.exists() else b""
    assert written == FILES[name](), f"spec/{name} is stale: run `{REFRESH}`"


def test_every_service_of_the_api_is_in_the_table() -> None:
    missing = {service.__name__ for service in services() if service.__module__.startswith("spec.api.")}
    missing -= {service.__name__ for service in protocol.SERVICES}
    assert not missing, f"add them to spec.protocol.SERVICES: {missing}"


def test_paths_are_unique() -> None:
    paths = [method.path for service in protocol.SERVICES for method in service.methods()]
    assert len(paths) == len(set(paths))


def test_every_reference_of_the_schema_resolves() -> None:
    document = msgspec.json.decode(protocol.schema())
    definitions = {f"#/$defs/{name}" for name in document["$defs"]}
    references: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                references.add(value["$ref"])
            for part in value.values():
                walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)

    walk(document)
    for service in document["services"].values():
        for method in service["methods"].values():
            references |= {method["request"], method["reply"]}
    references |= set(document["topics"].values())
    assert references <= definitions


if __name__ == "__main__":
    for name, render in FILES.items():
        (FOLDER / name).write_bytes(render())
