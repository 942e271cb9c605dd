"""The host's side of the lab: what the guest said of each test, told as this session's own."""

import pytest

from tests.vm.initramfs import where_is
from tests.vm.kernel import AUFS, of_environment
from tests.vm.lab import CACHE, Lab

pytestmark = [pytest.mark.root, pytest.mark.vm]

# What is worth another kernel (6.1 has no lowerdir+), every cgroup v2 controller, or both.
GUEST = (
    "tests/vm/guest",
    "tests/root/test_cgroup.py",
    "tests/e2e/test_metrics.py",
    "tests/root/test_tasks.py",
    "tests/root/test_runtimes.py::test_a_frozen_task_dies_although_the_runtime_does_not_thaw_it",
    "tests/root/test_runtimes.py::test_a_runtime_that_deletes_nothing_and_shares_the_hosts_pids",
    "tests/root/test_overlay.py",
    "tests/root/test_mounting.py",
    "tests/contract/test_snapshotter.py",
)
# Software emulation is some ten times slower: what only takes long, and has nothing to do with either, runs outside.
CHOICE = "(not test_snapshotter or overlay) and not (lmdb or killed or many or found_again or 128_layers)"
OF_APPARMOR = "tests/vm/guest/test_apparmor.py"
OF_AUFS = "tests/contract/test_snapshotter.py"


@pytest.fixture(scope="module")
def answer():
    return Lab().run([*GUEST, "-k", CHOICE])


@pytest.mark.parametrize("path", GUEST)
def test_in_the_guest(answer, path, subtests):
    tell(answer, path, subtests)


def test_the_guest_ended_well(answer):
    assert answer.done is not None, f"the guest ended before its tests:\n{answer.tail()}"


def test_aufs(subtests):
    """Every rule of snapshotters, on a kernel that has aufs."""
    kernel = of_environment()
    if kernel is None:
        pytest.skip(f"{AUFS} names no kernel with aufs")
    tell(Lab(kernel, CACHE).run([OF_AUFS, "-k", "aufs"]), OF_AUFS, subtests)


def test_apparmor(subtests):
    """The default profile, on a kernel that confines by it."""
    if where_is("apparmor_parser") is None:
        pytest.skip("no apparmor_parser")
    answer = Lab(options="apparmor=1 security=apparmor").run([OF_APPARMOR])
    tell(answer, OF_APPARMOR, subtests)
    assert not [result.id for result in answer.results if result.outcome == "skipped"]


def tell(answer, path, subtests):
    results = [result for result in answer.results if result.id.startswith(path)]
    assert results, f"the guest ran nothing of {path}:\n{answer.tail()}"
    for result in results:
        with subtests.test(result.id):
            if result.outcome == "skipped":
                pytest.skip(result.text)
            assert result.outcome == "passed", result.text
