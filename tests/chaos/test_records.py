"""A few rounds of tests.chaos.records."""

import pytest

from tests.chaos import records

pytestmark = pytest.mark.e2e


def test_records_outlive_kill_minus_nine(tmp_path):
    assert records.chaos(tmp_path, 5, seed=7)["acknowledged"] > 0
