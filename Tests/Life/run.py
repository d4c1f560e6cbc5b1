#!/usr/bin/env python3
"""The life-cycle tests: listening, signals, faults, restarts under load, and a short soak; each says its figures.

    Tests/Life/run.py --gateway .build/debug/webllm-gateway [--seconds 30] [--quick]
"""
import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

parser = argparse.ArgumentParser()
parser.add_argument("--gateway", required=True)
parser.add_argument("--seconds", type=int, default=30)
parser.add_argument("--clients", type=int, default=200)
parser.add_argument("--restarts", type=int, default=20)
parser.add_argument("--memory", type=int, default=24)
parser.add_argument("--quick", action="store_true", help="fewer rounds and more patience, for sanitizers")
arguments = parser.parse_args()
quick = ["--quick"] if arguments.quick else []
checks = [
    ["listen.py"],
    ["signals.py", *quick],
    ["faults.py", *quick],
    ["restart.py", "--restarts", arguments.restarts],
    ["soak.py", "--seconds", arguments.seconds, "--clients", arguments.clients, "--memory", arguments.memory],
]
for script, *options in checks:
    command = [sys.executable, HERE / script, "--gateway", arguments.gateway, *map(str, options)]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"life: {script} failed")
