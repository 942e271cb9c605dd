"""Files that look like a container's cgroups of either version, and a task that they are of."""

FILES = {
    "v1": {
        "pids/pids.current": "3\n",
        "pids/pids.max": "max\n",
        "cpuacct/cpuacct.usage": "5000000000\n",
        "cpuacct/cpuacct.usage_percpu": "10 20 \n",
        "cpu/cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 700\n",
        "memory/memory.stat": "cache 7\nrss 8\n",
        "memory/memory.usage_in_bytes": "15\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.memsw.limit_in_bytes": "9\n",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
        "hugetlb/hugetlb.2MB.usage_in_bytes": "4\n",
    },
    "v2": {
        "unified/pids.current": "3\n",
        "unified/cpu.stat": "usage_usec 11\nthrottled_usec 1\n",
        "unified/memory.current": "12\n",
        "unified/memory.max": "max\n",
        "unified/memory.stat": "anon 13\nworkingset_refault_anon 1\nworkingset_refault_file 2\n",
        "unified/memory.events": "oom 1\noom_kill 1\n",
        "unified/io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        "unified/memory.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=99\n",
        "unified/hugetlb.2MB.current": "4\n",
    },
}


class Task:
    namespace = "n"
    runtime = '/opt/"my"/runc'

    def __init__(self, id, directories):
        self.id = id
        self.directories = directories

    def cgroups(self):
        return self.directories


def task(folder, id, files):
    directories = {}
    for name, text in files.items():
        controller, _, file = name.partition("/")
        path = folder / id / controller
        path.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(text)
        directories[controller] = str(path)
    return Task(id, directories)
