"""What of a container's figures `tasks metrics` shows, under the names of their files; the rest is in its JSON."""

from spec.metrics import UNLIMITED, V1, V2, Cpu1, Cpu2, CpuUsage1, Figures, Memory1, Memory2, MemoryEntry1, Pids

TIMES = ("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec")
SIZES = ("usage", "usage_limit", "swap_usage", "swap_limit")


def rows(data: Figures) -> list[tuple[str, str]]:
    """Name and value of those that the kernel tells."""
    shown = _of_1(data) if isinstance(data, V1) else _of_2(data)
    return [(name, _text(value)) for name, value in shown if value is not None]


def _of_1(data: V1) -> list[tuple[str, object]]:
    memory, cpu, pids = data.memory or Memory1(), data.cpu or Cpu1(), data.pids or Pids()
    counted, used = memory.usage or MemoryEntry1(), cpu.usage or CpuUsage1()
    return [
        ("memory.usage_in_bytes", counted.usage),
        ("memory.limit_in_bytes", counted.limit),
        ("memory.stat.cache", memory.cache),
        ("cpuacct.usage", used.total),
        ("cpuacct.usage_percpu", used.per_cpu),
        ("pids.current", pids.current),
        ("pids.limit", pids.limit),
    ]


def _of_2(data: V2) -> list[tuple[str, object]]:
    memory, cpu, pids = data.memory or Memory2(), data.cpu or Cpu2(), data.pids or Pids()
    return [
        ("pids.current", pids.current),
        ("pids.limit", pids.limit),
        *((f"cpu.{name}", getattr(cpu, name)) for name in TIMES),
        *((f"memory.{name}", getattr(memory, name)) for name in SIZES),
    ]


def _text(value: object) -> str:
    if value == UNLIMITED:
        return "max"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
