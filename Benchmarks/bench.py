#!/usr/bin/env python3
"""Measures the gateway beside nginx and the libcurl floor, in one run on one machine.

    scripts/bench [--quick] [--json FILE] [--gateway BINARY]

Machines are noisy: rounds take turns, and a ratio is the median of those within one round. Loopback only, bounded in
time, and only processes that it started itself are ended.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TICKS = os.sysconf("SC_CLK_TCK")
BODY = '{"prompt":"Say hello in five words, and then tell me about the weather in the city today.","max_tokens":64}'
ANSWER = (
    '{"model":"m","created_at":"2026-01-01T00:00:00.609543917Z","message":{"role":"assistant","content":'
    '"Good morning to all of you there! It is mild, with some clouds."},"done":false}\\n'
    '{"model":"m","created_at":"2026-01-01T00:00:00.683195343Z","message":{"role":"assistant","content":""},'
    '"done":true,"done_reason":"stop","total_duration":120878442,"load_duration":36245690,"prompt_eval_count":15,'
    '"prompt_eval_duration":9115270,"eval_count":14,"eval_duration":71189704}\\n')


def free_ports(count) -> list:
    """Ports that are free now, below those that the system gives to outgoing connections."""
    ports = []
    for port in range(20000 + os.getpid() % 5000, 32000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
        if len(ports) == count:
            return ports
    raise SystemExit("bench: no free ports")


class Server:
    """A process that listens on a port; figures are of it and its children."""

    def __init__(self, name, port, command):
        self.name, self.port = name, port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while time.monotonic() - started < 10:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    self.start_seconds = time.monotonic() - started
                    return
            time.sleep(0.002)
        raise SystemExit(f"bench: {name} does not listen on port {port}")

    def pids(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid] + [int(pid) for pid in children]

    def cpu_seconds(self) -> float:
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_kib(self, field) -> int:
        return sum(
            int(re.search(rf"{field}:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])
            for pid in self.pids())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def nginx(folder, name, port, server_block, http_block=""):
    config = folder / f"{name}.conf"
    config.write_text(f"""
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log /dev/null;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; {http_block}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ {server_block} }} }}
}}""")
    return Server(name, port, ["nginx", "-c", config, "-p", folder, "-e", "/dev/null"])


def proxy(folder, name, port, upstream_port):
    return nginx(
        folder, name, port,
        'proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;',
        f"upstream u {{ server 127.0.0.1:{upstream_port}; keepalive 2048; keepalive_requests 1000000000; }}")


def gateway(folder, binary, port, upstream_port, history=True, name="gateway"):
    config = folder / f"gateway-{port}.conf"
    kept = f'path = "{folder}/history-{port}.sqlite"' if history else "max_rows = 0"
    config.write_text(f"""
[history]
{kept}
[admin]
listen = []
[server]
listen = ["127.0.0.1:{port}"]
max_requests_per_connection = 1000000000
[[upstream]]
name = "ollama"
kind = "ollama"
url = "http://127.0.0.1:{upstream_port}"
model = "m"
max_in_flight = 4096
""")
    return Server(name, port, [binary, "serve", "--config", config])


def seconds(text) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit]


def wrk(server, path, connections, duration, script):
    before = server.cpu_seconds()
    output = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--latency", "-s", script,
         f"http://127.0.0.1:{server.port}{path}"], capture_output=True, text=True, check=True).stdout
    cpu = server.cpu_seconds() - before
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"bench: errors from {server.name}:\n{output}")
    requests = int(re.search(r"(\d+) requests in", output)[1])
    return {
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),
        "p50_ms": 1000 * seconds(re.search(r"^\s+50%\s+(\S+)", output, re.M)[1]),
        "p99_ms": 1000 * seconds(re.search(r"^\s+99%\s+(\S+)", output, re.M)[1]),
        "cpu_us": cpu * 1e6 / requests,
    }


def streams(server, path, count, seconds, body, tools):
    """Streams that start at once or, with seconds, begin one by one and are replaced as they end."""
    kept_up = ["-d", str(seconds), "-r", str(count)] if seconds else []
    idle = server.memory_kib("VmRSS")
    before = server.cpu_seconds()
    output = subprocess.run(
        [tools / "stream_cl", "-k", str(count), *kept_up, "-T", "60", "-b", body,
         f"http://127.0.0.1:{server.port}{path}"], capture_output=True, text=True, check=False).stdout
    figures = {key: float(value) for key, value in re.findall(r"(\w+)=(-?[\d.]+)", output)}
    return {
        "whole": figures["ok"] / figures["streams"],
        "ttft_p50_ms": figures["ttft_p50"], "ttft_p99_ms": figures["ttft_p99"], "up_p99_ms": figures["up_p99"],
        "back_p99_ms": figures["back_p99"], "delay_p99_ms": figures["delay_p99"],
        "gap_p99_ms": figures["gap_p99"], "cpu_us": (server.cpu_seconds() - before) * 1e6 / figures["tokens"],
        "kib": (server.memory_kib("VmHWM") - idle) / count,
    }


def stream_round(folder, binary, count, tokens, apart_ms, seconds, servers, number) -> dict:
    """Each path with servers that have just started."""
    paths = {}

    def add(server, path, body):
        servers.append(server)
        paths[server.name] = (server, path, body)

    up, px, fl, gw = free_ports(4)
    upstream = [folder / "stream_up", "-p", str(up), "-n", str(tokens), "-u", str(apart_ms * 1000), "-m", "m", "-q"]
    servers.append(Server("upstream", up, upstream))
    ask = '{"model":"m","messages":[{"role":"user","content":"x"}]}'
    floor = [folder / "libcurl_limit", str(fl), f"http://127.0.0.1:{up}/api/chat", "stream", str(os.cpu_count())]
    add(proxy(folder, "nginx", px, up), "/api/chat", ask)
    add(Server("libcurl floor", fl, floor), "/api/chat", ask)
    add(gateway(folder, binary, gw, up), "/webllm/api/infer", '{"prompt":"x","stream":true}')
    figures = {
        name: streams(server, path, count, seconds, body, folder)
        for name, (server, path, body) in turned(paths.items(), number)}
    for server in servers:
        server.stop()
    servers.clear()
    return figures


def turned(paths, number) -> list:
    """Another first in each round: what runs before leaves its mark, such as a warm machine."""
    paths = list(paths)
    return paths[number % len(paths):] + paths[:number % len(paths)]


def print_medians(title, rounds) -> dict:
    """Prints, and returns, medians of rounds, each a dictionary of figures by name, and of the gateway's ratios."""
    keys = list(rounds[0]["gateway"])
    rows = {name: {key: statistics.median(of[name][key] for of in rounds) for key in keys} for name in rounds[0]}
    for other in [name for name in rows if name != "gateway"]:
        rows[f"gateway / {other}"] = {
            key: statistics.median(of["gateway"][key] / of[other][key] for of in rounds)
            for key in keys if all(of[other][key] > 0 for of in rounds)}
    print(f"\n### {title}\n\n| | {' | '.join(keys)} |\n|---|{'---|' * len(keys)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[key]:.4g}' if key in row else '-' for key in keys)} |")
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--gateway", default=ROOT / ".build/release/webllm-gateway")
    arguments = parser.parse_args()
    # Streams take two seconds each, in which one halt of the machine makes the delay at p99: more rounds of those.
    rounds, duration = (1, 3) if arguments.quick else (5, 4)
    everything, servers = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for tool, flags in [("stream_up", []), ("stream_cl", []), ("libcurl_limit", ["-lcurl"])]:
            command = ["cc", "-O2", "-Wall", "-Wextra", "-o", folder / tool, HERE / f"{tool}.c", *flags]
            subprocess.run(command, check=True)
        script = folder / "post.lua"
        script.write_text(f"wrk.method='POST'\nwrk.headers['Content-Type']='application/json'\nwrk.body='{BODY}'\n")
        try:
            up, px, floor, gw, bare = free_ports(5)
            servers.append(nginx(folder, "direct", up, f"default_type application/x-ndjson; return 200 '{ANSWER}';"))
            servers.append(proxy(folder, "nginx", px, up))
            url = f"http://127.0.0.1:{up}/api/chat"
            servers.append(Server("libcurl floor", floor, [folder / "libcurl_limit", str(floor), url]))
            servers.append(gateway(folder, arguments.gateway, gw, up))
            servers.append(gateway(folder, arguments.gateway, bare, up, history=False, name="gateway without history"))
            direct, plain, limit, ours, forgetful = servers
            everything["idle"] = {"rss_mib": ours.memory_kib("VmRSS") / 1024, "start_s": ours.start_seconds}
            print(f"gateway: {everything['idle']['rss_mib']:.1f} MiB idle, listening after "
                  f"{everything['idle']['start_s'] * 1000:.0f} ms")
            for connections in (1, 32, 128):
                paths = [
                    (ours, "/webllm/api/infer"), (forgetful, "/webllm/api/infer"), (limit, "/api/chat"),
                    (plain, "/api/chat"), (direct, "/api/chat")]
                everything[f"unary {connections}"] = print_medians(f"POST infer, {connections} connections", [{
                    server.name: wrk(server, path, connections, duration, script)
                    for server, path in turned(paths, number)
                } for number in range(rounds)])
            everything["peak_rss_mib"] = ours.memory_kib("VmHWM") / 1024
            for server in servers:
                server.stop()
            servers.clear()
            for count, tokens, apart_ms, seconds in (
                    (100, 100, 20, 0), (1000, 100, 20, 0), (1000, 100, 20, 8), (1000, 1, 20, 0), (16, 5000, 0, 0)):
                title = f"{count} streams of {tokens} token{'s' * (tokens > 1)}, {apart_ms} ms apart"
                if seconds:
                    title += f", kept up for {seconds} s"
                everything[title] = print_medians(title, [
                    stream_round(folder, arguments.gateway, count, tokens, apart_ms, seconds, servers, number)
                    for number in range(3 * rounds)])
        finally:
            for server in servers:
                server.stop()
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    sys.exit(main())
