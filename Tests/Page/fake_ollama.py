"""An Ollama server whose answers a test writes token by token."""

import contextlib
import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Generation:
    """One chat request that the gateway sent. The test decides what comes back, and when."""

    def __init__(self, handler, body):
        self.body = body
        self.left = threading.Event()  # the gateway closed the connection
        self._handler = handler
        self._has_head = False

    def _line(self, value):
        if not self._has_head:
            self._has_head = True
            self._write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
                b"Connection: close\r\n\r\n"
            )
        line = json.dumps(value).encode() + b"\n"
        self._write(b"%x\r\n%s\r\n" % (len(line), line))

    def _write(self, data):
        self._handler.connection.sendall(data)

    def _end(self):
        with contextlib.suppress(OSError):  # the gateway may have heard enough
            self._write(b"0\r\n\r\n")

    def token(self, *texts):
        for text in texts:
            self._line({"model": "m", "message": {"role": "assistant", "content": text}, "done": False})

    def done(self, count=None):
        last = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
        self._line(last if count is None else last | {"eval_count": count})
        self._end()

    def error(self, message):
        """The model runner died: an error line, then a clean end."""
        self._line({"error": message})
        self._end()

    def refuse(self, status, message):
        body = json.dumps({"error": message}).encode()
        self._write(
            b"HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (status, len(body), body)
        )

    def answer(self, *texts):
        self.token(*texts)
        self.done(len(texts))


class FakeOllama:
    """Has the models installed and loaded."""

    def __init__(self, *models):
        models = [{"name": name, "model": name} for name in models or ["m:latest"]]
        self._chats = queue.Queue()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                replies = {
                    "/api/version": {"version": "0.12.11"},
                    "/api/tags": {"models": models},
                    "/api/ps": {"models": models},
                }
                body = json.dumps(replies.get(self.path, {"error": "not found"})).encode()
                self.send_response(200 if self.path in replies else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                generation = Generation(self, body)
                if not body["messages"]:  # only loads the model: the gateway had no list of those that are
                    generation.done()
                    self.close_connection = True
                    return
                outer._chats.put(generation)
                with contextlib.suppress(OSError):
                    self.connection.recv(1)  # nothing more is sent on it: returns when the gateway closes
                generation.left.set()
                self.close_connection = True

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a gateway that is killed resets its connections

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next_chat(self, deadline=5):
        return self._chats.get(timeout=deadline)

    def close(self):
        self._server.shutdown()
        self._server.server_close()
