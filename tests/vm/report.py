"""Pytest plugin of the guest: a line of JSON for each test, as it ends, to the file that HOLDD_VM_RESULTS names.

    {"id": "tests/root/test_fs.py::test_x", "outcome": "passed", "seconds": 0.1, "text": ""}
    {"done": 0}

The last is the exit code of the session. The file may be a serial port: what is said before a crash arrives.
"""

import json
import os

RESULTS = "HOLDD_VM_RESULTS"


class Reporter:
    def __init__(self, path):
        self._path = path
        self._seconds = {}

    def _say(self, **line):
        with open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_runtest_logreport(self, report):
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration
        if report.when != "call" and report.outcome == "passed":
            return
        text = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else report.longreprtext
        seconds = round(self._seconds[report.nodeid], 3)
        self._say(id=report.nodeid, outcome=report.outcome, seconds=seconds, text=text)

    def pytest_collectreport(self, report):
        if report.failed:
            self._say(id=report.nodeid, outcome="failed", seconds=0, text=report.longreprtext)

    def pytest_sessionfinish(self, exitstatus):
        self._say(done=int(exitstatus))


def pytest_configure(config):
    if path := os.environ.get(RESULTS):
        config.pluginmanager.register(Reporter(path))
