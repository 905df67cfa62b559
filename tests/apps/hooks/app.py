"""Answers all lifecycle hooks and remembers each call; GET / on port 8080 tells them.

How it answers is asked for by environment variables (for the build) and by the payload of the run
hook: READY_AFTER is how often /ready says 503 first; the payload {"run": 500} or {"suspend": 500}
is the status of that hook from then on, and {"run": "hang"} keeps the caller waiting.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PREFIX = "/aws/lambda-microvms/runtime/v1/"
calls = []
statuses = {}
never = threading.Event()


def status_of(hook, body):
    if hook == "ready":
        asked = sum(call["hook"] == "ready" for call in calls)
        return 503 if asked <= int(os.environ.get("READY_AFTER", "0")) else 200
    if hook == "validate":
        return int(os.environ.get("VALIDATE", "200"))
    if hook == "run":
        payload = json.loads(body)["runHookPayload"]
        statuses.update(json.loads(payload) if payload.startswith("{") else {})
    answer = statuses.get(hook, 200)
    if answer == "hang":
        never.wait()
    return answer


class Hooks(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        hook = self.path.removeprefix(PREFIX)
        call = {
            "hook": hook,
            "path": self.path,
            "body": body,
            "type": self.headers.get("content-type"),
            "host": self.headers.get("host"),
            "client": self.client_address[0],
        }
        calls.append(call)
        print("hook " + hook, flush=True)
        self.send_response(status_of(hook, body))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Calls(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps(calls).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    web = ThreadingHTTPServer(("0.0.0.0", 8080), Calls)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", 9000), Hooks).serve_forever()
