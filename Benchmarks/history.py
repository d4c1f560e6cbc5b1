#!/usr/bin/env python3
"""A history of a million requests: size of its file, start, answers, deleting under load, and a clear.

    Benchmarks/history.py [--gateway .build/release/webllm-gateway] [--rows 1000000] [--text 500]

The gateway makes the database; rows are added to it as the gateway writes them, which a first real request shows.
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "Tests/Life"))
from life import Upstream, free_ports  # noqa: E402


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    started = time.perf_counter()
    connection.request("GET", path)
    body = connection.getresponse().read()
    return (time.perf_counter() - started) * 1000, json.loads(body)


def infer(connection):
    connection.request("POST", "/webllm/api/infer", json.dumps({"prompt": "hello"}),
                       {"Content-Type": "application/json"})
    assert connection.getresponse().read()


class Gateway:
    def __init__(self, binary, folder, ports, upstream, history):
        config = pathlib.Path(folder, "gateway.conf")
        config.write_text(
            f'[server]\nlisten = ["127.0.0.1:{ports[0]}"]\n[admin]\nlisten = ["127.0.0.1:{ports[1]}"]\n'
            f'[log]\naccess = false\n[history]\npath = "{folder}/history.sqlite"\n{history}\n'
            f'[[upstream]]\nname = "a"\nkind = "ollama"\nurl = "http://127.0.0.1:{upstream.port}"\nmodel = "m"\n')
        started = time.perf_counter()
        self.process = subprocess.Popen([binary, "serve", "--config", config], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if '"listening for operators"' in line:
                break
        self.start_ms = (time.perf_counter() - started) * 1000
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", default=ROOT / ".build/release/webllm-gateway")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--text", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        *ports, upstream_port = free_ports(3)
        upstream = Upstream(upstream_port, pieces=3)
        try:
            gateway = Gateway(arguments.gateway, folder, ports, upstream, "")
            infer(http.client.HTTPConnection("127.0.0.1", ports[0]))
            get(ports[1], "/admin/requests")
            gateway.end()

            file = f"{folder}/history.sqlite"
            database = sqlite3.connect(file)
            row = list(database.execute("SELECT * FROM request").fetchone())
            columns = [column[1] for column in database.execute("PRAGMA table_info(request)")]
            place = {name: columns.index(name) for name in columns}
            now, letters = row[place["id"]], "abcdefghijklmnopqrstuvwxyz     "
            texts = ["".join(random.choices(letters, k=arguments.text)) for _ in range(1000)]

            def rows():
                for number in range(arguments.rows):
                    row[place["id"]] = now - (arguments.rows - number) * 1_000_000
                    row[place["request_id"]] = os.urandom(16)
                    row[place["text"]] = texts[number % 1000]
                    row[place["duration"]] = random.randrange(5000, 200_000)
                    row[place["first_token"]] = random.randrange(500, 20_000)
                    row[place["outcome"]] = 1 if number % 100 == 0 else 0
                    yield row

            with database:
                database.execute("DELETE FROM request")
                database.executemany(f"INSERT INTO request VALUES ({','.join('?' * len(row))})", rows())
                database.execute("UPDATE total SET rows = ?, inferences = ?", [arguments.rows, arguments.rows])
            database.close()
            print(f"{arguments.rows} rows with texts of {arguments.text} bytes: {os.path.getsize(file) / 1e6:.0f} MB")

            gateway = Gateway(arguments.gateway, folder, ports, upstream, "")
            print(f"start to listening: {gateway.start_ms:.0f} ms")
            for port, path in [(ports[0], "/webllm/api/history?limit=100"), (ports[0], "/webllm/api/metrics"),
                               (ports[1], "/admin/requests?limit=100"), (ports[1], "/admin/requests?upstream=a&limit=100"),
                               (ports[1], "/admin/requests?errors=true&limit=100"),
                               (ports[1], "/admin/requests?model=nobody-has-it"),
                               (ports[1], f"/admin/requests?limit=100&before={now - 500_000 * 1_000_000}")]:
                times = [get(port, path)[0] for _ in range(20)]
                path = path.replace(str(now - 500_000 * 1_000_000), "MIDDLE")
                print(f"{path}: p50 {percentile(times, .5):.1f} ms, most {max(times):.1f} ms")
            gateway.end()

            # Sweeping begins a second after the start: the test waits for rows to go.
            quiet = load(arguments, folder, ports, upstream, "", 5)
            gateway = Gateway(arguments.gateway, folder, ports, upstream, f"max_rows = {arguments.rows // 2}")
            while get(ports[1], "/admin/status")[1]["history"]["rows"] >= arguments.rows:
                time.sleep(0.1)
            before = get(ports[1], "/admin/status")[1]["history"]["rows"]
            swept = measure(ports, 5)
            after = get(ports[1], "/admin/status")[1]["history"]["rows"]
            gateway.end()
            print(f"requests while nothing is deleted: p99 {percentile(quiet, .99):.2f} ms, most {max(quiet):.2f} ms")
            print(f"requests while {before - after} rows are deleted: p99 {percentile(swept, .99):.2f} ms, "
                  f"most {max(swept):.2f} ms")

            gateway = Gateway(arguments.gateway, folder, ports, upstream, "")
            client = http.client.HTTPConnection("127.0.0.1", ports[0])
            started = time.perf_counter()
            client.request("POST", "/webllm/api/clear", "{}", {"Content-Type": "application/json"})
            assert client.getresponse().status == 200
            get(ports[1], "/admin/requests")  # answered after it
            left = sum(os.path.getsize(file + suffix) for suffix in ["", "-wal"])
            print(f"clear of {after} rows: {time.perf_counter() - started:.1f} s, leaves {left / 1e6:.1f} MB")
            gateway.end()
        finally:
            upstream.stop()


def load(arguments, folder, ports, upstream, history, seconds):
    gateway = Gateway(arguments.gateway, folder, ports, upstream, history)
    times = measure(ports, seconds)
    gateway.end()
    return times


def measure(ports, seconds):
    connection = http.client.HTTPConnection("127.0.0.1", ports[0])
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end and len(times) < 900:
        started = time.perf_counter()
        infer(connection)
        times.append((time.perf_counter() - started) * 1000)
    return times


main()
