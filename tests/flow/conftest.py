"""What flows run over: stores, and a registry that does as it is told."""

import pytest

from daemon.images import fetcher, pools, transport
from tests.fake import Fake
from tests.house import House


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.close()


@pytest.fixture
def fake():
    with Fake() as fake:
        yield fake


@pytest.fixture
def impatient(monkeypatch):
    """All that is waited for is short."""
    monkeypatch.setattr(transport, "CONNECT_S", 0.5)
    monkeypatch.setattr(transport, "HEADER_S", 0.5)
    monkeypatch.setattr(transport, "READ_S", 0.5)
    monkeypatch.setattr(pools, "HEAD_S", 0.5)
    monkeypatch.setattr(fetcher, "WATCHED_S", 0.3)
    monkeypatch.setattr(transport, "doubled", lambda *_: 0.0)
