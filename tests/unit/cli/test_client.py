"""The signed calls: what is sent verifies with AWS's own rules, and ids may be shortened."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from microvmd.cli.client import Service
from microvmd.service.failure import Failure
from microvmd.settings.settings import Settings

IDS = [f"microvm-{digit * 8}-0000-0000-0000-000000000000" for digit in ("a", "b")]
LINES = [
    {"time": 1.0, "stream": "s", "message": "one"},
    {"time": 2.0, "stream": "s", "message": "2"},
    {"time": 3.0, "stream": "s", "message": "one \u2028 line \x85 of JSON"},
]


@dataclass
class Seen:
    """What the server was asked."""

    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def _handler(seen: Seen) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.requests.append((self.path, headers))
            status, body = 200, b""
            if self.path.startswith("/microvmd/v1/logs"):
                body = "".join(
                    json.dumps(line, ensure_ascii=False) + "\n" for line in LINES
                ).encode()
            elif self.path.startswith("/microvmd/v1/microvms/absent"):
                status, body = 404, b'{"message": "MicroVM not found: absent"}'
            else:
                items = [
                    {
                        "microvmId": name,
                        "state": state,
                        "imageArn": "arn:aws:lambda:us-east-1:0:microvm-image:x",
                        "imageVersion": "1.0",
                        "startedAt": 1,
                    }
                    for name, state in zip(IDS, ("RUNNING", "TERMINATED"), strict=True)
                ]
                body = json.dumps({"items": items}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> Iterator[Service]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(seen))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "config").write_text(
        f"[profile microvmd]\nregion = us-east-1\nendpoint_url = {url}\n"
    )
    (tmp_path / "credentials").write_text(
        "[microvmd]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield Service(Settings())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_logs_and_their_signature(service: Service, seen: Seen) -> None:
    lines = list(service.logs("/aws/lambda-microvms/x y", "2026/01/01[1.0]m", since=1.5))
    assert [line.message for line in lines] == ["one", "2", LINES[2]["message"]]
    path, headers = seen.requests[-1]
    assert "follow=false" in path
    assert "/lambda/aws4_request" in headers["authorization"]
    # Signed once more by AWS's own signer: the same request must give the same signature.
    again = AWSRequest("GET", f"http://{headers['host']}{path}")
    again.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", "secret"), "lambda", "us-east-1")
    again.headers["X-Amz-Date"] = headers["x-amz-date"]
    canonical = signer.canonical_request(again)
    signature = signer.signature(signer.string_to_sign(again, canonical), again)
    assert headers["authorization"].endswith(signature)


def test_errors_carry_the_services_words(service: Service) -> None:
    with pytest.raises(Failure, match="MicroVM not found: absent"):
        service.facts("absent")


def test_short_ids(service: Service) -> None:
    assert service.find_microvm("aaaa") == IDS[0]
    assert service.find_microvm("microvm-aa") == IDS[0]
    assert service.find_microvm("bbbb") == IDS[1]
    # Live ones come first: of both, only one runs.
    assert service.find_microvm("microvm-") == IDS[0]
    assert service.find_microvm(IDS[1]) == IDS[1]
    with pytest.raises(Failure, match="no MicroVM begins"):
        service.find_microvm("cccc")


def test_without_the_certificate_authority(service: Service, tmp_path: Path) -> None:
    other = Service(Settings(root=tmp_path))
    with pytest.raises(Failure, match=r"ca\.pem"):
        other.endpoint_client()
