"""An AWS endpoint that answers every call with one error, as STS or CloudWatch Logs words it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer


@dataclass
class Refusal:
    """Where it answers, and how many calls it has refused."""

    code: str
    status: int
    calls: list[str] = field(default_factory=list)
    url: str = ""

    def body(self, target: str | None) -> bytes:
        if target is not None:
            return json.dumps({"__type": self.code, "message": "refused"}).encode()
        return f"<ErrorResponse><Error><Code>{self.code}</Code></Error></ErrorResponse>".encode()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        self.rfile.read(int(self.headers["Content-Length"]))
        target = self.headers["X-Amz-Target"]
        server.refusal.calls.append(target or "")
        body = server.refusal.body(target)
        self.send_response(server.refusal.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


class _Server(HTTPServer):
    refusal: Refusal


@contextmanager
def refusing(code: str, status: int = 400) -> Iterator[Refusal]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.refusal = Refusal(code, status, url=f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.refusal
        finally:
            server.shutdown()
            serving.join()
