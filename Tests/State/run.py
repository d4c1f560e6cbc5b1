#!/usr/bin/env python3
"""Faults of the durable history: real disks, locks, damage and kills, on the real gateway.

    Tests/State/run.py --gateway .build/debug/webllm-gateway [--only WORD] [--kills 50] [--seed N]
"""
import argparse
import pathlib
import random
import sys
import time
import traceback

import contents  # noqa: F401, they add their cases to the list
import crash  # noqa: F401
import damage  # noqa: F401
import disk  # noqa: F401
from bench import CASES, Bench, Skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, type=pathlib.Path)
    parser.add_argument("--only", default="", help="run the cases whose title contains this")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    chosen = [(title, function) for title, function in CASES if options.only in title]
    if not chosen:
        sys.exit(f"no case has {options.only!r} in its title")
    counts = {"ok": 0, "FAILED": 0, "skipped": 0}
    bench = Bench(options.gateway.resolve(), options.kills, options.seed)
    try:
        for title, function in chosen:
            started = time.monotonic()
            try:
                told = function(bench) or ""
                end = "ok"
            except Skipped as reason:
                told, end = reason, "skipped"
            except (Exception, SystemExit) as error:  # whatever it is, it is this case's failure
                if not isinstance(error, (AssertionError, SystemExit)):
                    traceback.print_exc()
                told, end = error, "FAILED"
            finally:
                bench.end_case()
            counts[end] += 1
            print(f"{title}: {end} ({time.monotonic() - started:.1f} s) {told}".rstrip(), flush=True)
    finally:
        bench.close()
    print("state: " + ", ".join(f"{count} {end}" for end, count in counts.items()))
    return 1 if counts["FAILED"] else 0


sys.exit(main())
