"""The frozen binaries, as `make freeze` has left them in dist/."""

from pathlib import Path

import pytest

DIST = Path(__file__).parents[2] / "dist"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def dist():
    missing = [name for name in ("holdd", "ctr") if not (DIST / name).exists()]
    if missing:
        pytest.fail(f"dist has no {' and no '.join(missing)}: make freeze")
    return DIST
