"""How each chaos is run by hand: flags, a directory of its own, on stderr what it is doing, on stdout what it did."""

import argparse
import json
import random
import sys
import tempfile


def run(doc, work, **flags):
    """`work(directory, seed=, say=, ...)` with `flags`, which have these defaults."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name, default in flags.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--directory")
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(dir=given.pop("directory")) as directory:
        print(json.dumps(work(directory, say=lambda line: print(line, file=sys.stderr), **given)))
