"""The page of the metrics endpoint is made beside the loop, however many containers it is of."""

import asyncio
import threading

from daemon.client import connect
from daemon.figures import Internals, Telling
from daemon.kit.threads import Pool
from daemon.metrics.catalog import GROUPS, Containers
from daemon.metrics.cgroups import Cgroups
from daemon.transport.http import Page
from tests import exposed
from tests.echo import SECONDS, Echo, Server, Text
from tests.readings import FILES, task

MANY = 500


def test_a_scrape_of_five_hundred_containers_holds_up_no_call(tmp_path):
    reached, answered = threading.Event(), threading.Event()

    def late():
        """The last container can be told when a call was answered that came later than the scrape."""
        reached.set()
        assert answered.wait(SECONDS)
        return last.directories

    tasks = [task(tmp_path, f"c{number}", FILES["v2"]) for number in range(MANY)]
    last = tasks[-1]
    last.cgroups = late
    cgroups, pool = Cgroups(), Pool("scrape", 1)
    page = Page(Telling(Containers(cgroups, lambda: tasks, GROUPS), Internals([], list, []), None, pool).body, 0)
    with Server() as server, connect(server.path, timeout_s=SECONDS) as client:
        scrape = asyncio.run_coroutine_threadsafe(page.body(), server.loop)
        assert reached.wait(SECONDS)
        for number in range(100):
            assert Echo(client).say(Text(number=number)).number == number
        assert not scrape.done()
        answered.set()
        text = scrape.result(SECONDS).decode()
    pool.close()
    cgroups.close()
    assert all(exposed.value(text, "container_pids_current", container_id=f"c{n}") == 3 for n in (0, MANY - 1))
    assert text.count("container_pids_current{") == MANY
