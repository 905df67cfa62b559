"""Runs the Python code that is posted to it and keeps the names it defines, like a notebook.

One MicroVM is one session of one tenant: there is nothing to isolate inside, the virtual machine
is the isolation. Standard library only.

POST /execute {"code": "x = 6 * 7\\nx"} answers {"stdout": "", "stderr": "", "result": "42",
"error": null}; GET /names lists what is defined; POST /reset forgets it.
"""

import ast
import contextlib
import io
import json
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hooks

PORT = 8080
LONGEST_CODE = 1 << 20


class Session:
    """The names of one tenant. Code runs one piece at a time, in the order of arrival."""

    def __init__(self):
        self.turn = threading.Lock()
        self.names = {"__name__": "__main__"}
        self.owner = None

    def execute(self, code):
        out, err = io.StringIO(), io.StringIO()
        result = error = None
        with self.turn, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                result = self._run(ast.parse(code, "<input>"))
            except SystemExit as asked:
                error = f"SystemExit: {asked.code}"
            except BaseException:  # whatever the tenant's code raises is its answer
                error = traceback.format_exc(limit=-8)
        return {
            "stdout": out.getvalue(),
            "stderr": err.getvalue(),
            "result": None if result is None else repr(result),
            "error": error,
        }

    def _run(self, tree):
        """Execute all statements; the value of a last expression is the result."""
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, "<input>", "exec"), self.names)
        return eval(compile(last, "<input>", "eval"), self.names) if last else None

    def visible(self):
        return sorted(name for name in self.names if not name.startswith("__"))

    def reset(self):
        with self.turn:
            self.names = {"__name__": "__main__"}


session = Session()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/names":
            self._answer(200, {"names": session.visible(), "owner": session.owner})
        else:
            self._answer(404, {"error": "try POST /execute, GET /names or POST /reset"})

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if length > LONGEST_CODE:
            self.close_connection = True
            self._answer(413, {"error": f"more than {LONGEST_CODE} bytes of code"})
            return
        body = self.rfile.read(length)
        if self.path == "/reset":
            session.reset()
            self._answer(200, {})
            return
        if self.path != "/execute":
            self._answer(404, {"error": "try POST /execute"})
            return
        try:
            code = json.loads(body)["code"]
        except (ValueError, KeyError, TypeError):
            self._answer(400, {"error": 'send {"code": "..."}'})
            return
        self._answer(200, session.execute(code))

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
    hooks.serve(session)
    server.serve_forever()
