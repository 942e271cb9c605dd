"""A daemon with both runtimes, for all tests of the guest that want one."""

import pytest

from tests.containers import busybox
from tests.daemon import Daemon

CONFIG = '[runtimes.crun]\npath = "crun"\n'


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("daemon"), CONFIG) as running:
        yield running


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory):
    return busybox(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
def client(daemon):
    with daemon.client() as connected:
        yield connected
