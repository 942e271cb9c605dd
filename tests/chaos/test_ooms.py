"""A short tests.chaos.ooms."""

import pytest

from tests.chaos import ooms

pytestmark = pytest.mark.e2e


def test_every_kill_for_memory_has_its_verdict_and_one_event(tmp_path):
    done = ooms.chaos(tmp_path, 24, seed=3, pause_s=(0.3, 1.0))
    assert done["verdicts"] == done["events before the exit's"] == 24
