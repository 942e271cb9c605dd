"""The one table of figures: every field of the Structs is in it, and none is twice."""

import collections

import pytest

from spec import metrics, series
from spec.base import Record
from spec.series import Form

ROWS = (metrics.RdmaEntry, metrics.BlkioEntry, metrics.IoEntry)


def paths(struct, prefix=""):
    """Of all fields that are figures, in it and in the Structs it holds."""
    for name, kind in struct.__annotations__.items():
        kinds = getattr(kind, "__args__", ())
        inner = [part for part in kinds if isinstance(part, type) and issubclass(part, Record)]
        if inner:
            yield from paths(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize(("struct", "table"), [(metrics.V1, series.V1), (metrics.V2, series.V2)])
def test_every_field_has_a_series(struct, table):
    counted = collections.Counter(row.path for row in table)
    assert set(counted) == set(paths(struct)) - {"hugetlb"}
    assert set(counted.values()) == {1}


@pytest.mark.parametrize(
    ("struct", "table"), [(metrics.Hugetlb1, series.HUGETLB_1), (metrics.Hugetlb2, series.HUGETLB_2)]
)
def test_every_field_of_huge_pages_has_a_series(struct, table):
    assert {row.path for row in table} == set(struct.__annotations__) - {"page"}


@pytest.mark.parametrize("table", [(*series.V1, *series.HUGETLB_1), (*series.V2, *series.HUGETLB_2)])
def test_names_of_metrics(table):
    names = [row.metric for row in table if row.metric]
    assert len(names) == len(set(names))
    for row in table:
        assert row.metric.startswith("container_") or not row.metric
        assert all("/" in file for file in row.files)
        assert (row.keys == ("",)) is not (row.form is Form.LINES)


# A sample of each group of containerd's names
@pytest.mark.parametrize(
    ("table", "names"),
    [
        (
            series.V1,
            "pids_limit cpu_total_nanoseconds cpu_kernel_nanoseconds per_cpu_nanoseconds cpu_throttle_periods_total "
            "cpu_throttled_time_nanoseconds memory_rss_huge_bytes memory_total_cache_bytes "
            "memory_hierarchical_memory_limit_bytes memory_usage_limit_bytes memory_kerneltcp_failcnt_total "
            "memory_swap_max_bytes memory_oom_total blkio_io_service_bytes_recursive_bytes "
            "blkio_io_serviced_recursive_total blkio_sectors_recursive_total",
        ),
        (
            series.V2,
            "pids_current cpu_usage_usec_microseconds cpu_nr_periods_total cpu_throttled_usec_microseconds "
            "memory_usage_bytes memory_usage_limit_bytes memory_swap_limit_bytes memory_file_mapped_bytes "
            "memory_workingset_refault_bytes memory_thp_collapse_alloc_bytes memory_slab_bytes memory_oom_total",
        ),
        (series.HUGETLB_1, "hugetlb_usage_bytes hugetlb_failcnt_total hugetlb_max_bytes"),
    ],
)
def test_names_are_containerds(table, names):
    assert {f"container_{name}" for name in names.split()} <= {row.metric for row in table}
