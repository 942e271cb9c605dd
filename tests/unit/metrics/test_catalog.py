"""Containers as text: which names there are, and that a container which is gone is left out, over files of our own."""

import os

import pytest

from daemon.metrics.catalog import GROUPS, Containers
from daemon.metrics.cgroups import Cgroups
from tests import exposed
from tests.readings import FILES, Task, task

EXPECTED = {
    "v1": [
        ("container_pids_current", {}, 3),
        ("container_pids_limit", {}, float(2**64 - 1)),
        ("container_cpu_total_nanoseconds", {}, 5e9),
        ("container_per_cpu_nanoseconds", {"cpu": "1"}, 20),
        ("container_memory_cache_bytes", {}, 7),
        ("container_memory_rss_bytes", {}, 8),
        ("container_memory_swap_limit_bytes", {}, 9),
        ("container_memory_oom_total", {}, 2),
        ("container_blkio_io_service_bytes_recursive_bytes", {"op": "Write", "major": "8", "minor": "0"}, 2),
        ("container_hugetlb_usage_bytes", {"page": "2MB"}, 4),
    ],
    "v2": [
        ("container_pids_current", {}, 3),
        ("container_cpu_usage_usec_microseconds", {}, 11),
        ("container_memory_usage_bytes", {}, 12),
        ("container_memory_anon_bytes", {}, 13),
        ("container_memory_workingset_refault_bytes", {}, 3),
        ("container_memory_oom_total", {}, 1),
        ("container_io_wbytes_bytes", {"major": "8", "minor": "0"}, 2),
        ("container_io_rios_total", {"major": "8", "minor": "0"}, 3),
        ("container_memory_pressure_some_avg10_percent", {}, 1.5),
        ("container_memory_pressure_some_total_microseconds", {}, 99),
        ("container_hugetlb_usage_bytes", {"page": "2MB"}, 4),
    ],
}


@pytest.fixture
def cgroups():
    made = Cgroups()
    yield made
    made.close()


@pytest.mark.parametrize("version", FILES)
@pytest.mark.parametrize("room", [None, 0])
def test_names_and_labels(tmp_path, version, room):
    cgroups = Cgroups(room)
    tasks = [task(tmp_path, id, FILES[version]) for id in ("a", "b")]
    text = Containers(cgroups, lambda: tasks, GROUPS).text()
    for id in ("a", "b"):
        for name, labels, value in EXPECTED[version]:
            labels = {"container_id": id, "namespace": "n", "runtime": Task.runtime, **labels}
            assert exposed.value(text, name, **labels) == value, name
    assert {family.kind for family in exposed.parse(text).values()} == {"gauge"}
    cgroups.close()


@pytest.mark.parametrize("group", GROUPS)
def test_groups(tmp_path, cgroups, group):
    """Each figure is in one group."""
    names = {}
    for version, files in FILES.items():
        text = Containers(cgroups, lambda files=files, id=version: [task(tmp_path, id, files)], [group]).text()
        names[version] = set(exposed.parse(text))
        others = Containers(
            cgroups, lambda files=files, id=version: [task(tmp_path, id, files)], set(GROUPS) - {group}
        )
        assert not names[version] & set(exposed.parse(others.text()))
    assert names["v1"] | names["v2"]


def test_a_controller_is_missing(tmp_path, cgroups):
    """Its figures are left out; those of the others, and of the other container, are not."""
    less = {name: text for name, text in FILES["v1"].items() if not name.startswith("memory/")}
    tasks = [task(tmp_path, "less", less), task(tmp_path, "more", FILES["v1"])]
    text = Containers(cgroups, lambda: tasks, GROUPS).text()
    assert exposed.values(text, "container_memory_rss_bytes") == [8]
    assert exposed.values(text, "container_pids_current") == [3, 3]


def test_one_that_is_gone(tmp_path, cgroups):
    def vanish():
        raise FileNotFoundError("/proc/1/cgroup")

    gone = Task("gone", {})
    failing = Task("failing", {})
    failing.cgroups = vanish
    text = Containers(cgroups, lambda: [gone, failing, task(tmp_path, "here", FILES["v1"])], GROUPS).text()
    assert exposed.values(text, "container_pids_current") == [3]


def test_descriptors_are_bounded(tmp_path, open_files):
    tasks = [task(tmp_path, str(number), FILES["v1"]) for number in range(4)]
    room = 100
    cgroups = Cgroups(room)
    containers = Containers(cgroups, lambda: tasks, GROUPS)
    before = open_files()
    for _ in range(2):
        assert len(exposed.values(containers.text(), "container_pids_current")) == 4
        assert 0 < open_files() - before <= room
    tasks.clear()
    assert containers.text() == ""
    assert open_files() == before
    tasks.extend(task(tmp_path, str(number), FILES["v1"]) for number in range(2))
    assert len(exposed.values(containers.text(), "container_pids_current")) == 2
    assert open_files() - before == 2 * len(FILES["v1"])  # what was let go of is room again
    cgroups.close()


@pytest.fixture
def open_files():
    return lambda: len(os.listdir("/proc/self/fd"))
