"""Servers of which each test has its own."""

import pytest

from tests.answers import Answers
from tests.fake import Fake


@pytest.fixture
def fake():
    with Fake() as fake:
        yield fake


@pytest.fixture
def own():
    with Answers() as server:
        yield server


@pytest.fixture
def other():
    with Answers() as server:
        yield server
