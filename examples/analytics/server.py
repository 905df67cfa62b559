"""SQL over a user's own CSV files, with DuckDB: upload, query, results.

One MicroVM is one user's database. The SQL is the user's, so it is hostile in principle: DuckDB's
own settings keep it off files, and what gets through these meets the MicroVM, in which there is
nothing but the user's data.

PUT /tables/NAME with a CSV makes a table of it; GET /tables lists them; POST /query with the SQL
answers {"columns": [...], "rows": [...], "more": false, "seconds": 0.1}.
"""

import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import duckdb

PORT, HOOK_PORT = 8080, 9000
UPLOADS = Path("uploads")
LARGEST_CSV = 1 << 30
LONGEST_SQL = 1 << 20
MOST_ROWS = 10_000
MOST_SECONDS = 10
PIECE = 1 << 20
SETTINGS = f"""
SET memory_limit = '512MB';
SET threads = 2;
SET temp_directory = 'spilled';
SET max_temp_directory_size = '2GB';
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET allowed_directories = ['{UPLOADS}/', 'spilled/'];
SET enable_external_access = false;
SET lock_configuration = true;
"""


class Database:
    """One query at a time, each within MOST_SECONDS."""

    def __init__(self):
        UPLOADS.mkdir(exist_ok=True)
        self._turn = threading.Lock()
        self._connection = duckdb.connect("database.duckdb")
        self._connection.execute(SETTINGS)

    def load(self, name, path):
        """A table of a CSV, its types and separators found by DuckDB."""
        return self._limited(f"CREATE OR REPLACE TABLE \"{name}\" AS FROM read_csv('{path}')")

    def query(self, sql):
        began = time.monotonic()
        columns, rows = self._limited(sql)
        return {
            "columns": columns,
            "rows": rows[:MOST_ROWS],
            "more": len(rows) > MOST_ROWS,
            "seconds": round(time.monotonic() - began, 3),
        }

    def _limited(self, sql):
        with self._turn:
            timer = threading.Timer(MOST_SECONDS, self._connection.interrupt)
            timer.start()
            try:
                found = self._connection.execute(sql)
                columns = [column[0] for column in found.description or ()]
                return columns, found.fetchmany(MOST_ROWS + 1)
            finally:
                timer.cancel()
                timer.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        name = re.fullmatch(r"/tables/([A-Za-z_][A-Za-z0-9_]{0,62})", self.path)
        length = int(self.headers.get("content-length") or 0)
        if name is None or not 0 < length <= LARGEST_CSV:
            self.close_connection = True
            self._answer(400, {"error": f"PUT /tables/NAME, at most {LARGEST_CSV} bytes of CSV"})
            return
        path = UPLOADS / f"{name[1]}.csv"
        with path.open("wb") as file:
            while length and (piece := self.rfile.read(min(length, PIECE))):
                file.write(piece)
                length -= len(piece)
        self._of_database(lambda: database.load(name[1], path) and {"table": name[1]})
        path.unlink()

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if self.path != "/query" or length > LONGEST_SQL:
            self.close_connection = True
            self._answer(400, {"error": f"POST /query with at most {LONGEST_SQL} bytes of SQL"})
            return
        sql = self.rfile.read(length).decode(errors="replace")
        self._of_database(lambda: database.query(sql))

    def do_GET(self):
        if self.path != "/tables":
            self._answer(404, {"error": "GET /tables, PUT /tables/NAME, POST /query"})
            return
        self._of_database(lambda: database.query("SHOW ALL TABLES"))

    def _of_database(self, act):
        try:
            self._answer(200, act())
        except duckdb.InterruptException:
            self._answer(400, {"error": f"the query took more than {MOST_SECONDS} seconds"})
        except duckdb.Error as error:
            self._answer(400, {"error": str(error)})

    def _answer(self, status, value):
        # Dates, decimals and blobs as text.
        body = json.dumps(value, default=str).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Hooks(Handler):
    def do_POST(self):
        self._answer(200, {})


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A suspend cuts connections; the client opens another one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    database = Database()
    server = Server(("0.0.0.0", PORT), Handler)
    hooks = Server(("127.0.0.1", HOOK_PORT), Hooks)
    threading.Thread(target=hooks.serve_forever, daemon=True).start()
    server.serve_forever()
