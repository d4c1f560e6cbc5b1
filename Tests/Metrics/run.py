#!/usr/bin/env python3
"""A real Prometheus scrapes a gateway whose load is known; promtool looks at the format.

    Tests/Metrics/run.py --gateway .build/debug/webllm-gateway
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Life"))
from life import Gateway, Upstream, free_ports, wait_for, write_config  # noqa: E402


def get(url, data=None):
    headers = {"Content-Type": "application/json"} if data else {}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as reply:
        return reply.read().decode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    arguments = parser.parse_args()
    port, admin, upstream_port, prometheus_port = free_ports(4)
    with tempfile.TemporaryDirectory() as folder:
        upstream = Upstream(upstream_port)
        write_config(f"{folder}/gateway.conf", port, admin, [upstream])
        pathlib.Path(f"{folder}/prometheus.yml").write_text(
            "global: { scrape_interval: 200ms, scrape_timeout: 200ms }\nscrape_configs:\n"
            f"  - job_name: gateway\n    static_configs: [{{ targets: ['127.0.0.1:{admin}'] }}]\n")
        gateway = Gateway(arguments.gateway, f"{folder}/gateway.conf", f"{folder}/log")
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{prometheus_port}", "--log.level=error"])
        try:
            wait_for(lambda: '"listening"' in pathlib.Path(f"{folder}/log").read_text(), 20, "the gateway")
            for _ in range(10):
                get(f"http://127.0.0.1:{port}/webllm/api/infer", b'{"prompt":"x"}')
            checked = subprocess.run(
                ["promtool", "check", "metrics"], input=get(f"http://127.0.0.1:{admin}/metrics"), text=True, check=False)
            if checked.returncode != 0:
                raise SystemExit("metrics: promtool does not like the format")
            query = urllib.parse.quote('webllm_gateway_requests_total{route="infer",outcome="ok",upstream="u0"}')
            seen, end = [], time.monotonic() + 20
            while not seen or seen[0]["value"][1] != "10":
                if time.monotonic() > end:
                    raise SystemExit(f"metrics: Prometheus has {seen}, and not 10 requests")
                time.sleep(0.1)
                try:
                    seen = json.loads(
                        get(f"http://127.0.0.1:{prometheus_port}/api/v1/query?query={query}"))["data"]["result"]
                except OSError:
                    pass  # Prometheus is still starting
        finally:
            prometheus.terminate()
            prometheus.wait()
            gateway.end()
            upstream.stop()
    print("metrics: promtool finds nothing, and Prometheus has the 10 requests")


main()
