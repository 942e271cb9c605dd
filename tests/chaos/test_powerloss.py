"""A few rounds of tests.chaos.powerloss."""

import shutil

import pytest

from tests.chaos import powerloss

pytestmark = pytest.mark.e2e


def test_what_was_acknowledged_outlives_a_power_loss(tmp_path):
    if not shutil.which("mkfs.xfs"):
        pytest.skip("no mkfs.xfs")
    done = powerloss.chaos(tmp_path, 3, seed=5)
    assert done["acknowledged"] > 0
