"""One registry a session and one daemon a test, all real."""

import pytest

from tests.daemon import Daemon


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.e2e)


@pytest.fixture
def daemon(tmp_path):
    with Daemon(tmp_path) as daemon:
        yield daemon
