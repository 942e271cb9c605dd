"""What is measured of a container: one Struct a version of cgroups, with the fields of containerd's Metrics. None is
what this kernel, or this cgroup, does not tell. `spec.series` says which file each figure is from.

Sizes are in bytes, times in the unit of their name, v1's in nanoseconds. UNLIMITED is no limit, where the kernel says
"max"; v1 says a number near 2^63.
"""

from collections.abc import Sequence

from spec.base import Record

UNLIMITED = 0xFFFFFFFFFFFFFFFF


class Pids(Record, frozen=True):
    current: int | None = None
    limit: int | None = None


class RdmaEntry(Record, frozen=True):
    device: str
    hca_handles: int = 0
    hca_objects: int = 0


class Rdma(Record, frozen=True):
    current: Sequence[RdmaEntry] | None = None
    limit: Sequence[RdmaEntry] | None = None


class Cpuset(Record, frozen=True):
    """In the kernel's notation, such as 0-3,8."""

    cpus: str | None = None
    mems: str | None = None


class PressureData(Record, frozen=True):
    """Per cent of the last 10, 60 and 300 seconds, and microseconds since ever, in which processes had to wait."""

    avg10: float | None = None
    avg60: float | None = None
    avg300: float | None = None
    total: int | None = None


class Pressure(Record, frozen=True):
    """Of `some` processes, and of all of them at once."""

    some: PressureData | None = None
    full: PressureData | None = None


# Version 1


class CpuUsage1(Record, frozen=True):
    total: int | None = None
    kernel: int | None = None
    user: int | None = None
    per_cpu: Sequence[int] | None = None


class Throttling1(Record, frozen=True):
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_time: int | None = None


class Cpu1(Record, frozen=True):
    usage: CpuUsage1 | None = None
    throttling: Throttling1 | None = None


class MemoryEntry1(Record, frozen=True):
    limit: int | None = None
    usage: int | None = None
    max: int | None = None
    failcnt: int | None = None


class Memory1(Record, frozen=True):
    """memory.stat, and four counters; `swap` counts memory too (memory.memsw)."""

    cache: int | None = None
    rss: int | None = None
    rss_huge: int | None = None
    mapped_file: int | None = None
    dirty: int | None = None
    writeback: int | None = None
    pgpgin: int | None = None
    pgpgout: int | None = None
    pgfault: int | None = None
    pgmajfault: int | None = None
    inactive_anon: int | None = None
    active_anon: int | None = None
    inactive_file: int | None = None
    active_file: int | None = None
    unevictable: int | None = None
    hierarchical_memory_limit: int | None = None
    hierarchical_memsw_limit: int | None = None
    total_cache: int | None = None
    total_rss: int | None = None
    total_rss_huge: int | None = None
    total_mapped_file: int | None = None
    total_dirty: int | None = None
    total_writeback: int | None = None
    total_pgpgin: int | None = None
    total_pgpgout: int | None = None
    total_pgfault: int | None = None
    total_pgmajfault: int | None = None
    total_inactive_anon: int | None = None
    total_active_anon: int | None = None
    total_inactive_file: int | None = None
    total_active_file: int | None = None
    total_unevictable: int | None = None
    usage: MemoryEntry1 | None = None
    swap: MemoryEntry1 | None = None
    kernel: MemoryEntry1 | None = None
    kernel_tcp: MemoryEntry1 | None = None


class OomControl1(Record, frozen=True):
    oom_kill_disable: int | None = None
    under_oom: int | None = None
    oom_kill: int | None = None


class Hugetlb1(Record, frozen=True):
    """`page` is the pages' size as the kernel writes it, such as 2MB."""

    page: str
    usage: int | None = None
    max: int | None = None
    failcnt: int | None = None


class BlkioEntry(Record, frozen=True):
    """`op` is Read, Write, Sync, Async, Discard or Total; empty where the kernel does not tell them apart."""

    major: int
    minor: int
    op: str = ""
    value: int = 0


class Blkio(Record, frozen=True):
    """By the scheduler that the kernel has (bfq or cfq); with neither, what throttling counts."""

    io_service_bytes_recursive: Sequence[BlkioEntry] | None = None
    io_serviced_recursive: Sequence[BlkioEntry] | None = None
    io_queued_recursive: Sequence[BlkioEntry] | None = None
    io_service_time_recursive: Sequence[BlkioEntry] | None = None
    io_wait_time_recursive: Sequence[BlkioEntry] | None = None
    io_merged_recursive: Sequence[BlkioEntry] | None = None
    io_time_recursive: Sequence[BlkioEntry] | None = None
    sectors_recursive: Sequence[BlkioEntry] | None = None


class V1(Record, frozen=True, tag_field="version", tag="v1"):
    """Of a hybrid host too, where huge pages may be version 2's."""

    pids: Pids | None = None
    cpu: Cpu1 | None = None
    memory: Memory1 | None = None
    memory_oom_control: OomControl1 | None = None
    blkio: Blkio | None = None
    hugetlb: Sequence[Hugetlb1] | None = None
    rdma: Rdma | None = None
    cpuset: Cpuset | None = None


# Version 2


class Cpu2(Record, frozen=True):
    usage_usec: int | None = None
    user_usec: int | None = None
    system_usec: int | None = None
    nr_periods: int | None = None
    nr_throttled: int | None = None
    throttled_usec: int | None = None
    nr_bursts: int | None = None
    burst_usec: int | None = None
    pressure: Pressure | None = None


class Memory2(Record, frozen=True):
    """memory.stat and the counters beside it; `max_usage` is memory.peak."""

    anon: int | None = None
    file: int | None = None
    kernel: int | None = None
    kernel_stack: int | None = None
    pagetables: int | None = None
    percpu: int | None = None
    sock: int | None = None
    vmalloc: int | None = None
    shmem: int | None = None
    zswap: int | None = None
    zswapped: int | None = None
    file_mapped: int | None = None
    file_dirty: int | None = None
    file_writeback: int | None = None
    swapcached: int | None = None
    anon_thp: int | None = None
    file_thp: int | None = None
    shmem_thp: int | None = None
    inactive_anon: int | None = None
    active_anon: int | None = None
    inactive_file: int | None = None
    active_file: int | None = None
    unevictable: int | None = None
    slab_reclaimable: int | None = None
    slab_unreclaimable: int | None = None
    slab: int | None = None
    workingset_refault: int | None = None
    workingset_refault_anon: int | None = None
    workingset_refault_file: int | None = None
    workingset_activate: int | None = None
    workingset_activate_anon: int | None = None
    workingset_activate_file: int | None = None
    workingset_restore_anon: int | None = None
    workingset_restore_file: int | None = None
    workingset_nodereclaim: int | None = None
    pgscan: int | None = None
    pgsteal: int | None = None
    pgfault: int | None = None
    pgmajfault: int | None = None
    pgrefill: int | None = None
    pgactivate: int | None = None
    pgdeactivate: int | None = None
    pglazyfree: int | None = None
    pglazyfreed: int | None = None
    thp_fault_alloc: int | None = None
    thp_collapse_alloc: int | None = None
    usage: int | None = None
    usage_limit: int | None = None
    max_usage: int | None = None
    swap_usage: int | None = None
    swap_limit: int | None = None
    pressure: Pressure | None = None


class MemoryEvents(Record, frozen=True):
    """How often each came to pass, in this cgroup and those below it; `memory_events_local` is of this one alone."""

    low: int | None = None
    high: int | None = None
    max: int | None = None
    oom: int | None = None
    oom_kill: int | None = None
    oom_group_kill: int | None = None


class IoEntry(Record, frozen=True):
    major: int
    minor: int
    rbytes: int = 0
    wbytes: int = 0
    rios: int = 0
    wios: int = 0
    dbytes: int = 0
    dios: int = 0


class Io(Record, frozen=True):
    usage: Sequence[IoEntry] | None = None
    pressure: Pressure | None = None


class Hugetlb2(Record, frozen=True):
    """`page` is the pages' size as the kernel writes it, such as 2MB. `events` is how often the limit was met."""

    page: str
    current: int | None = None
    max: int | None = None
    events: int | None = None


class V2(Record, frozen=True, tag_field="version", tag="v2"):
    pids: Pids | None = None
    cpu: Cpu2 | None = None
    memory: Memory2 | None = None
    memory_events: MemoryEvents | None = None
    memory_events_local: MemoryEvents | None = None
    io: Io | None = None
    hugetlb: Sequence[Hugetlb2] | None = None
    rdma: Rdma | None = None
    cpuset: Cpuset | None = None


Figures = V1 | V2
