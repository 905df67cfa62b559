"""Answers the lifecycle hooks: ready when the interpreter listens, run with the tenant's name."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 9000
PREFIX = "/aws/lambda-microvms/runtime/v1/"


def serve(session):
    """Answer hooks in a thread; ``session.owner`` becomes the payload of the run hook."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            hook = self.path.removeprefix(PREFIX)
            print(f"hook {hook}", flush=True)
            if hook == "run":
                session.owner = json.loads(body).get("runHookPayload")
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
