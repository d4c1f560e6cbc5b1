#!/usr/bin/env python3
"""What recording a request costs: the share that perf sees in it, of the CPU time of a request.

    Benchmarks/recording.py [--gateway BINARY]

Needs perf (Debian: linux-perf), wrk and nginx. Loopback only, bounded in time.
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import bench

SECONDS = 6
# What is counted and where: functions of the gateway, with all that they call.
PARTS = {
    "metrics: a request": r"GatewayServer7MetricsC7request",
    "metrics: an attempt": r"GatewayServer7MetricsC7attempt",
    "history: making and queueing its entry": r"ExchangeC4keep",
    "access log: its line": r"LogSinkC5write",
}


def report(data, *options):
    return subprocess.run(
        ["perf", "report", "-i", data, "-g", "none", "--percent-limit", "0", *options],
        capture_output=True, text=True, check=True).stdout


def shares(data):
    """Percent of all samples, by the functions that perf saw, with what they called."""
    lines = re.findall(
        r"^\s+([\d.]+)%\s+[\d.]+%\s+\[.\] (\S+)", report(data, "--children", "--sort", "sym"), re.M)
    parts = {part: max((float(share) for share, symbol in lines if re.search(pattern, symbol)), default=0.0)
             for part, pattern in PARTS.items()}
    # Only the history uses threads of Dispatch. SQLite has no frame pointers, so its callers are not seen.
    threads = re.findall(r"^\s+([\d.]+)%\s+(\S+)", report(data, "--no-children", "--sort", "comm"), re.M)
    parts["history: writing it to the database"] = sum(float(share) for share, name in threads if "qos" in name)
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", default=bench.ROOT / ".build/release/webllm-gateway")
    arguments = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("recording: no perf on the PATH (Debian: apt-get install linux-perf)")
    servers = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        script = folder / "post.lua"
        script.write_text(
            f"wrk.method='POST'\nwrk.headers['Content-Type']='application/json'\nwrk.body='{bench.BODY}'\n")
        try:
            up, port = bench.free_ports(2)
            servers.append(bench.nginx(
                folder, "upstream", up, f"default_type application/x-ndjson; return 200 '{bench.ANSWER}';"))
            servers.append(bench.gateway(folder, arguments.gateway, port, up))
            gateway = servers[1]
            figures = bench.wrk(gateway, "/webllm/api/infer", 32, SECONDS, script)
            data = folder / "perf.data"
            with subprocess.Popen(
                    ["perf", "record", "-q", "-F", "2000", "-g", "-p", str(gateway.process.pid), "-o", data, "--",
                     "sleep", str(SECONDS - 1)]) as perf:
                bench.wrk(gateway, "/webllm/api/infer", 32, SECONDS, script)
                perf.wait()
            print(f"a request: {figures['cpu_us']:.1f} µs of CPU\n\n| | share | µs |\n|---|---|---|")
            for part, share in shares(data).items():
                print(f"| {part} | {share:.2f} % | {share / 100 * figures['cpu_us']:.2f} |")
        finally:
            for server in servers:
                server.stop()


if __name__ == "__main__":
    main()
