"""Provokes each documented reply."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "Life"))
from life import free_ports, wait_for  # noqa: E402

DEADLINE = 20  # seconds for anything to happen
JSON = {"Content-Type": "application/json"}


class Gateway:
    """A gateway with one upstream; more of its configuration comes by section."""

    def __init__(self, binary, config, upstream, slots=1, **sections):
        client, admin = free_ports(2)
        self.ports = {"client": client, "admin": admin}
        self._config = pathlib.Path(config)
        self._sections = {
            "server": f'listen = ["127.0.0.1:{client}"]\n', "admin": f'listen = ["127.0.0.1:{admin}"]\n',
            "history": 'path = ":memory:"\n', "webllm": 'fallback_message = ""\n', "log": "access = false\n"}
        self._upstream = (f'[[upstream]]\nname = "ollama-1"\nkind = "ollama"\nurl = "http://127.0.0.1:{upstream}"\n'
                          f'model = "m"\nmax_in_flight = {slots}\nmax_queue = 1\n')
        self.write(**sections)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "LLM_"))}
        self._log = self._config.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [binary, "serve", "--config", self._config], stdin=subprocess.DEVNULL, stderr=log, env=environment)

    def write(self, upstream="", **sections):
        """Writes the configuration, with these lines beside those that every gateway here has."""
        sections = {name: self._sections.get(name, "") + sections.get(name, "")
                    for name in self._sections | sections}
        self._config.write_text(
            "".join(f"[{name}]\n{lines}\n" for name, lines in sections.items()) + self._upstream + upstream)

    def __enter__(self):
        wait_for(self._listens, DEADLINE, "the gateway")
        return self

    def _listens(self):
        try:
            return self.get("/healthz").status == self.get("/healthz", "admin").status == 200
        except OSError:
            return False

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def check_lives(self):
        ended = self._process.poll()
        assert ended is None, f"the gateway ended with {ended}: {self._log.read_text()[-2000:]}"
        assert self.get("/healthz").status == 200

    def send(self, method, target, headers=None, body=b"", listener="client"):
        """Sends a request as it is told, for good or ill, and does not wait for its reply."""
        client = socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=DEADLINE)
        fields = {"Host": f"127.0.0.1:{self.ports[listener]}", "Content-Length": str(len(body))} | (headers or {})
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return client

    def ask(self, method, target, headers=None, body=b"", listener="client"):
        return Reply(self.send(method, target, headers, body, listener), method)

    def get(self, target, listener="client", **headers):
        return self.ask("GET", target, headers, listener=listener)

    def post(self, target, value, listener="client", **headers):
        return self.ask("POST", target, JSON | headers, json.dumps(value).encode(), listener)

    def infer(self, prompt, **fields):
        return self.post("/webllm/api/infer", {"prompt": prompt, **fields})

    def running(self):
        return json.loads(self.get("/admin/running", "admin", **AUTHORIZATION).text)["running"]

    def wait_until_running(self, count):
        wait_for(lambda: len(self.running()) == count, DEADLINE, f"{count} running requests")


class Reply:
    def __init__(self, client, method, last=None):
        """Reads to the end; where a stream has none, to the end of the first event called `last`."""
        with contextlib.closing(client):
            reply = http.client.HTTPResponse(client, method=method)
            reply.begin()
            self.status, self.headers = reply.status, reply.headers
            if last is None:
                self.text = reply.read().decode()
                return
            lines = []
            while f"event: {last}\n" not in lines or lines[-1] != "\n":
                lines.append(reply.readline().decode())
            self.text = "".join(lines)


# What makes each of the replies that operations share, by its name in the description.
SHARED = {
    "BadRequest": {"headers": {"Host": None}},
    "Unauthorized": {"headers": {"Authorization": "Bearer wrong"}},
    "Forbidden": {"headers": {"Origin": "http://other.example"}},
    "RequestTimeout": {"headers": {"Content-Length": "10"}},
    "LengthRequired": {"headers": {"Content-Length": None}},
    "BodyTooLarge": {"headers": {"Content-Length": "5000"}},
    "NotJSON": {"headers": {"Content-Type": "text/plain"}},
    "ExpectationFailed": {"headers": {"Expect": "miracles"}},
    "Misdirected": {"headers": {"Host": "other.example"}},
    "HeadTooLarge": {"headers": {"X-Long": "x" * 2000}},
    "NotImplemented": {"headers": {"Content-Length": None, "Transfer-Encoding": "gzip"}},
    "Unavailable": {"body": b" " * 500},
}
# Of an operation that both listeners have, only the operators' gives them.
OF_ADMIN = {"Unauthorized", "Forbidden", "Misdirected"}
TOKEN = "secret"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
STRICT = {
    "server": 'max_head = "1KiB"\nmax_body = "1KiB"\nmax_body_memory = "1KiB"\nbody_idle_timeout = "200ms"\n',
    "admin": f'token_hash = "sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}"\n'}


def check_shared_replies(document, binary, folder, upstream):
    """Each operation gives on each of its listeners every reply that it shares with others."""
    with Gateway(binary, f"{folder}/strict.conf", upstream, **STRICT) as gateway, ThreadPoolExecutor() as pool:
        # It holds most of what bodies may take together.
        holder = pool.submit(gateway.infer, "silence" + " " * 700)
        # Before it has its room, a body of the question could take it.
        gateway.wait_until_running(1)
        wait_for(lambda: gateway.ask("GET", "/healthz", body=b" " * 500).status == 503, DEADLINE, "full memory")
        for operation in document.operations.values():
            asked = []
            for listener in operation.listeners:
                for status, reply in operation.value["responses"].items():
                    name = reply.get("$ref", "").rsplit("/", 1)[-1]
                    if name in SHARED and (listener == "admin" or name not in OF_ADMIN or len(operation.listeners) == 1):
                        change = SHARED[name]
                        headers = JSON | AUTHORIZATION | change.get("headers", {})
                        asked.append((int(status), gateway.send(
                            operation.method, operation.target, headers, change.get("body", b""), listener)))
            for status, client in asked:
                reply = Reply(client, operation.method)
                document.check(operation.name, reply)
                assert reply.status == status, f"{operation.name}: {reply.status} in place of {status}: {reply.text}"
        # Only a listener whose [server] metrics is off has none.
        document.check("prometheusMetrics", gateway.get("/metrics"))
        for one in gateway.running():
            gateway.post(f"/admin/running/{one['id']}/cancel", {}, "admin", **AUTHORIZATION)
        holder.result()


def check_simple_replies(document, binary, folder, upstream, text):
    """What one request is enough for."""
    with Gateway(binary, f"{folder}/simple.conf", upstream, server="metrics = true\n") as gateway:
        for operation in document.operations.values():
            if operation.method == "GET" and operation.path == operation.target and operation.name != "adminEvents":
                for listener in operation.listeners:
                    document.check(operation.name, gateway.get(operation.target, listener))
        served = gateway.get("/openapi.json")
        assert served.text == text, "the gateway serves another description than that of the repository"
        version = json.loads(gateway.get("/admin/status", "admin").text)["version"]
        assert version == document.value["info"]["version"], f"the gateway is {version}"

        document.check("model", gateway.get("/webllm/api/models/info?model=microsoft/phi-2"))
        document.check("model", gateway.get("/webllm/api/models/info?model=nothing"))
        document.check("modelSettings", gateway.get("/webllm/api/config/models/a/b"))
        document.check("setModelSettings", gateway.post("/webllm/api/config/models", {"model_type": "a/b", "top_p": 1}))
        document.check("modelSettings", gateway.get("/webllm/api/config/models/a%2Fb"))
        document.check("setModelSettings", gateway.post("/webllm/api/config/models", {}))
        document.check("inferBatch", gateway.post("/webllm/api/infer/batch", {"prompts": ["tide", "", 7, "refuse"]}))
        document.check("inferBatch", gateway.post("/webllm/api/infer/batch", {"prompts": []}))
        document.check("infer", gateway.infer("tide", temperature=3))
        document.check("infer", gateway.infer("tide"))
        document.check("infer", gateway.infer("tide", stream=True))
        document.check("infer", gateway.post(
            "/webllm/api/infer", {"prompt": "tide", "stream": True}, Accept="application/x-ndjson"))
        document.check("infer", gateway.infer("refuse"))
        resting = gateway.infer("rest")
        document.check("infer", resting)
        assert resting.status == 429 and resting.headers["Retry-After"] == "5", resting.text
        document.check("history", gateway.get("/webllm/api/history?limit=-1"))

        wait_for(lambda: json.loads(gateway.get("/admin/requests", "admin").text)["count"] > 5, DEADLINE, "the history")
        found = gateway.get("/admin/requests?limit=500", "admin")
        document.check("adminRequests", found)
        document.check("adminRequests", gateway.get("/admin/requests?limit=501", "admin"))
        for request in json.loads(found.text)["requests"]:
            document.check("adminRequest", gateway.get(f"/admin/requests/{request['id']}", "admin"))
        document.check("adminRequest", gateway.get("/admin/requests/1", "admin"))
        document.check("history", gateway.get("/webllm/api/history"))
        document.check("clear", gateway.ask("POST", "/webllm/api/clear"))

        client = gateway.send("GET", "/admin/events", listener="admin")
        document.check("adminEvents", Reply(client, "GET", last="tick"))


def check_replies_of_a_busy_gateway(document, binary, folder, upstream):
    with Gateway(binary, f"{folder}/busy.conf", upstream) as gateway, ThreadPoolExecutor() as pool:
        first = pool.submit(gateway.infer, "silence")
        gateway.wait_until_running(1)
        second = pool.submit(gateway.infer, "tide")
        gateway.wait_until_running(2)
        document.check("adminRunning", gateway.get("/admin/running", "admin"))
        refused = gateway.infer("tide")
        document.check("infer", refused)
        assert refused.status == 503 and refused.headers["Retry-After"], refused.text
        oldest = gateway.running()[0]["id"]
        document.check("adminCancel", gateway.post(f"/admin/running/{oldest}/cancel", {}, "admin"))
        document.check("adminCancel", gateway.post(f"/admin/running/{oldest}/cancel", {}, "admin"))
        cancelled = first.result()
        document.check("infer", cancelled)
        assert cancelled.status == 503, cancelled.text
        waited = second.result()
        document.check("infer", waited)
        assert waited.headers["X-Queue-Position"] == "1", waited.headers

        gateway.write(upstream='timeouts = { first_token = "100ms" }\n')
        document.check("adminReload", gateway.post("/admin/reload", {}, "admin"))
        document.check("infer", gateway.infer("silence"))
        gateway.write(upstream="nonsense = 1\n")
        document.check("adminReload", gateway.post("/admin/reload", {}, "admin"))

        for change in ("disable", "enable", "drain"):
            document.check("setUpstreamMode", gateway.post(f"/admin/upstreams/ollama-1/{change}", {}, "admin"))
        document.check("setUpstreamMode", gateway.post("/admin/upstreams/nobody/drain", {}, "admin"))
        for listener in ("client", "admin"):
            document.check("readyz", gateway.get("/readyz", listener))
        for name, target in (("adminAlerts", "/admin/alerts"), ("explain", "/admin/explain?model=a")):
            document.check(name, gateway.get(target, "admin"))


def check_all(document, text, binary, upstream, folder):
    """How many of the checks failed."""
    checks = {
        "shared_replies": lambda: check_shared_replies(document, binary, folder, upstream),
        "simple_replies": lambda: check_simple_replies(document, binary, folder, upstream, text),
        "replies_of_a_busy_gateway": lambda: check_replies_of_a_busy_gateway(document, binary, folder, upstream),
        "every_documented_reply_was_seen": document.check_all_seen,
    }
    failed = 0
    for name, check in checks.items():
        try:
            check()
            print(f"ok {name}", flush=True)
        except AssertionError as error:
            failed += 1
            print(f"FAILED {name}: {error}", flush=True)
    return failed
