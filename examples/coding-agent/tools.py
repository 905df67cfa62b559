"""The assistant's hands: list, read and write files of a repository, and run commands in it.

Runs in the MicroVM, which is the isolation: a command may do what it likes there. What is bounded
is what goes back to the model. Standard library only.

POST /<tool> with the tool's arguments as a JSON object answers {"result": ...} or {"error": "..."}.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = 8080
HOOK_PORT = 9000
REPOSITORY = Path("/work")
LONGEST_BODY = 8 << 20
LONGEST_RESULT = 64 << 10
MOST_FILES = 2000
MOST_SECONDS = 300


class ToolError(Exception):
    """Told to the model, which can try something else."""


def list_files(path="."):
    """Every file below a directory, without what version control and caches keep."""
    top = _inside(path)
    found = []
    for directory, folders, names in os.walk(top):
        folders[:] = sorted(set(folders) - {".git", "__pycache__", "node_modules"})
        found += [os.path.relpath(os.path.join(directory, name), REPOSITORY) for name in names]
        if len(found) > MOST_FILES:
            raise ToolError(f"more than {MOST_FILES} files: list a directory of it")
    return sorted(found)


def read_file(path):
    with _inside(path).open(errors="replace") as file:
        text = file.read(LONGEST_RESULT + 1)
    if len(text) > LONGEST_RESULT:
        return text[:LONGEST_RESULT] + "\n[cut here: read the rest with run]"
    return text


def fetch_file(path):
    """The whole file in base64: for the client to write back. The model does not know this one."""
    with _inside(path).open("rb") as file:
        data = file.read(LONGEST_BODY + 1)
    if len(data) > LONGEST_BODY:
        raise ToolError(f"more than {LONGEST_BODY} bytes")
    return base64.b64encode(data).decode()


def write_file(path, content):
    target = _inside(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    return f"{len(content)} characters written"


def run(command, seconds=60):
    """Run a shell command in the repository. All of its processes end with it, or at its limit."""
    limit = min(float(seconds), MOST_SECONDS)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - LONGEST_RESULT))
        text = output.read().decode(errors="replace")
    if size > LONGEST_RESULT:
        text = f"[{size - LONGEST_RESULT} bytes cut here]\n{text}"
    return {"exit": code, "output": text, "ended": "at its limit" if code is None else "itself"}


def _inside(path):
    """Keeps a model's slips in the repository; what is malicious meets the MicroVM's walls."""
    target = (REPOSITORY / path).resolve()
    if not target.is_relative_to(REPOSITORY):
        raise ToolError(f"not in the repository: {path}")
    return target


TOOLS = {tool.__name__: tool for tool in (list_files, read_file, fetch_file, write_file, run)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if length > LONGEST_BODY:
            self.close_connection = True
            self._answer(413, {"error": f"more than {LONGEST_BODY} bytes"})
            return
        body = self.rfile.read(length)
        tool = TOOLS.get(self.path.removeprefix("/"))
        if tool is None:
            self._answer(404, {"error": f"tools are {', '.join(TOOLS)}"})
            return
        try:
            arguments = json.loads(body)
            print(f"{tool.__name__} {str(arguments)[:200]}", flush=True)
            self._answer(200, {"result": tool(**arguments)})
        except (ToolError, OSError, TypeError, ValueError) as error:
            self._answer(200, {"error": f"{type(error).__name__}: {error}"})

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Ready(Handler):
    """The snapshot is taken when this answers: the tools are listening in every MicroVM."""

    def do_POST(self):
        self._answer(200, {})


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A suspend cuts connections; the client opens another one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    server = Server(("0.0.0.0", PORT), Handler)
    ready = ThreadingHTTPServer(("127.0.0.1", HOOK_PORT), Ready)
    threading.Thread(target=ready.serve_forever, daemon=True).start()
    server.serve_forever()
