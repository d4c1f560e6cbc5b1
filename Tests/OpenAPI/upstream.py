"""An Ollama server that answers by what it is asked."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"version": "0.12.11", "models": [{"name": "m:latest", "model": "m:latest"}]})

    def do_POST(self):
        messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        prompt = messages[-1]["content"] if messages else "load"
        if not messages:
            self.answer(200, {"model": "m", "done": True, "done_reason": "load"})
        elif prompt == "refuse":
            self.answer(500, {"error": "out of memory"})
        elif prompt == "rest":
            self.answer(429, {"error": "too many requests"})
        elif prompt.startswith("silence"):
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # returns when the gateway gives up
            self.close_connection = True
        else:
            self.answer(200, {"model": "m", "message": {"role": "assistant", "content": "Salt and sun."},
                              "done": True, "done_reason": "stop", "eval_count": 4, "prompt_eval_count": 9})

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a gateway that is killed resets its connections


class Upstream:
    def __init__(self):
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
