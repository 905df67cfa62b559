"""What ``microvmd curl`` becomes: curl itself, with a token that its command line does not show."""

import http.server
import os
import subprocess
import threading
from pathlib import Path

from microvmd.cli.microvms import curl_command, header_file

ENDPOINT = "x.lambda-microvm.us-east-1.microvm.localhost:8443"


def test_curl_command() -> None:
    argv = curl_command(Path("/ca.pem"), ENDPOINT, "count", 7, ["-v"])
    assert argv == [
        *("curl", "--silent", "--show-error", "--cacert", "/ca.pem", "--header", "@/dev/fd/7"),
        *("-v", f"https://{ENDPOINT}/count"),
    ]


def test_curl_sends_what_its_command_line_does_not_show() -> None:
    """To a plain server here: whether an endpoint takes the token is for the tests of journeys."""
    seen: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.update(self.headers.items())
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        headers = header_file("a-secret", 3000)
        try:
            argv = curl_command(Path("/ca.pem"), "no.test", "/", headers, ["--noproxy", "*"])
            argv[-1] = f"http://127.0.0.1:{server.server_port}/"
            subprocess.run(argv, check=True, timeout=20, pass_fds=[headers])
        finally:
            os.close(headers)
    assert seen["X-aws-proxy-auth"] == "a-secret"
    assert seen["X-aws-proxy-port"] == "3000"
    assert "a-secret" not in " ".join(argv)
