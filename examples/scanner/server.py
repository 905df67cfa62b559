"""Takes one archive on port 8080 and gives the report of it on port 8081, to whoever may read it.

The two ports have tokens of their own, so that who reads a report cannot submit and the other way
round. One MicroVM scans for one submitter and is terminated then. Standard library only.

POST /archive on 8080 with the archive as its body answers 202; GET /report on 8081 answers 404
before that, 202 while the scan runs, and then the report.
"""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

INTAKE, REPORT, HOOKS = 8080, 8081, 9000
LARGEST = 64 << 20
LARGEST_REPORT = 4 << 20
SECONDS = 120
SCAN = Path(__file__).with_name("scan.py")

turn = threading.Lock()
state = {"status": 404, "report": {"error": "nothing was submitted"}}


def scan(archive):
    """In a process of its own with limits of its own: see scan.py."""
    with turn:
        state.update(status=202, report={"scanning": len(archive)})
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(SCAN)],
                input=archive,
                capture_output=True,
                timeout=SECONDS,
            )
            report = json.loads(done.stdout[:LARGEST_REPORT])
        except subprocess.TimeoutExpired:
            report = failed(f"the scan took more than {SECONDS} seconds")
        except ValueError:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            report = failed(f"the scan ended with {done.returncode}: {' '.join(last)}")
        state.update(status=200, report=report)
        print(f"{len(archive)} bytes: {report['verdict']}", flush=True)


def failed(why):
    """What cannot be scanned is not clean."""
    return {"verdict": "refused", "refused": [why], "findings": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value):
        body = json.dumps(value, indent=1).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Intake(Handler):
    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if not 0 < length <= LARGEST:
            self.close_connection = True
            self.answer(413, {"error": f"send an archive of at most {LARGEST} bytes"})
            return
        archive = self.rfile.read(length)
        state.update(status=202, report={"scanning": length})
        threading.Thread(target=scan, args=(archive,)).start()
        self.answer(202, {"submitted": length})


class Report(Handler):
    def do_GET(self):
        self.answer(state["status"], state["report"])


class Hooks(Handler):
    def do_POST(self):
        self.answer(200, {})


if __name__ == "__main__":
    servers = [
        ThreadingHTTPServer(("0.0.0.0", port), handler)
        for port, handler in ((INTAKE, Intake), (REPORT, Report), (HOOKS, Hooks))
    ]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()
