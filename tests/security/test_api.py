"""Requests to the API that are not what their signature says, or more than a server should read.

Over real sockets. Whether a signature is checked at all is taken out first, to see the same
requests succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hmac
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from microvmd.api import authenticate
from microvmd.api.operations import load_operations
from tests.clients.live import KEY, REGION, LiveApi, live_api
from tests.clients.raw import send

pytestmark = pytest.mark.security

MICROVMS = "/2025-09-09/microvms"
STAMP = "%Y%m%dT%H%M%SZ"
MANY = 400
"""Connections at once, each with a descriptor on either side in this process."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("attacked")) as found:
        yield found


@dataclass(frozen=True)
class Call:
    """A request and what its signature covers; ``sent`` changes it after it was signed."""

    method: str = "GET"
    path: str = MICROVMS
    query: str = ""
    body: bytes = b""
    when: datetime | None = None
    """None is the moment of signing: some calls are made long before."""
    secret: str = KEY.secret_key
    access_key: str = KEY.access_key
    service: str = "lambda"
    region: str = REGION
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def stamp(self) -> str:
        assert self.when is not None
        return self.when.strftime(STAMP)

    def signed(self, host: str) -> list[tuple[str, str]]:
        """Headers with a signature over them, made by the rules and not by a library."""
        if self.when is None:
            return replace(self, when=datetime.now(UTC)).signed(host)
        covered = sorted([("host", host), ("x-amz-date", self.stamp), *self.headers])
        names = ";".join(name for name, _ in covered)
        canonical = "\n".join(
            [
                self.method,
                self.path,
                self.query,
                *(f"{name}:{value}" for name, value in covered),
                "",
                names,
                sha256(self.body).hexdigest(),
            ]
        )
        scope = f"{self.stamp[:8]}/{self.region}/{self.service}/aws4_request"
        digest = sha256(canonical.encode()).hexdigest()
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{self.stamp}\n{scope}\n{digest}"
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return [*covered, ("authorization", authorization)]


def _raw(
    api: LiveApi, target: str, headers: list[tuple[str, str]], method: str, body: bytes
) -> tuple[int, str]:
    """Status and error type of exactly these headers."""
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("x-amzn-errortype") or ""
    finally:
        connection.close()


def _sent(api: LiveApi, call: Call, **changes: Any) -> tuple[int, str]:
    """Sign the call, then send it with some of it changed."""
    headers = call.signed(urlsplit(api.url).netloc)
    for name, value in changes.pop("other_headers", {}).items():
        headers = [(n, value if n == name else v) for n, v in headers]
    headers += list(changes.pop("more_headers", ()))
    sent = replace(call, **changes)
    target = f"{sent.path}?{sent.query}" if sent.query else sent.path
    return _raw(api, target, headers, sent.method, sent.body)


RUN = Call(
    "POST", body=b'{"imageIdentifier":"arn:aws:lambda:us-east-1:123456789012:microvm-image:a"}'
)
ALTERED: dict[str, tuple[Call, dict[str, Any]]] = {
    "another body": (RUN, {"body": RUN.body.replace(b"image:a", b"image:b")}),
    "no body": (RUN, {"body": b""}),
    "a body where none was": (Call("POST"), {"body": RUN.body}),
    "another path": (Call(), {"path": "/2025-09-09/microvm-images"}),
    "a longer path": (Call(), {"path": f"{MICROVMS}/microvm-1"}),
    "another query": (Call(query="maxResults=1"), {"query": "maxResults=2"}),
    "no query": (Call(query="maxResults=1"), {"query": ""}),
    "a query where none was": (Call(), {"query": "maxResults=1"}),
    "a query twice": (Call(query="maxResults=1"), {"query": "maxResults=1&maxResults=1"}),
    "another method": (Call(), {"method": "DELETE"}),
    "another host": (Call(), {"other_headers": {"host": "localhost"}}),
    "another date": (Call(), {"other_headers": {"x-amz-date": "20260101T000000Z"}}),
    "another signed header": (
        Call(headers=(("x-amz-meta", "1"),)),
        {"other_headers": {"x-amz-meta": "2"}},
    ),
    "a signed header twice": (
        Call(headers=(("x-amz-meta", "1"),)),
        {"more_headers": (("x-amz-meta", "1"),)},
    ),
    "a second date": (Call(), {"more_headers": (("x-amz-date", "20260101T000000Z"),)}),
    "a session token that was not signed": (
        Call(),
        {"more_headers": (("x-amz-security-token", "t"),)},
    ),
    "the hash of another body": (
        RUN,
        {"more_headers": (("x-amz-content-sha256", sha256(b"").hexdigest()),)},
    ),
    "another secret": (Call(secret="guessed"), {}),
    "no secret": (Call(secret=""), {}),
    "another service": (Call(service="execute-api"), {}),
    "another region": (Call(region="eu-west-1"), {}),
    "a key of nobody": (Call(access_key="AKIANOBODY"), {}),
}


def test_the_signature_of_this_test_is_taken(api: LiveApi) -> None:
    assert _sent(api, Call()) == (200, "")
    assert _sent(api, Call(query="maxResults=1")) == (200, "")
    assert _sent(api, RUN)[1] == "ResourceNotFoundException"


@pytest.mark.parametrize("name", ALTERED)
def test_what_is_not_what_was_signed(api: LiveApi, name: str) -> None:
    call, changes = ALTERED[name]
    status, error = _sent(api, call, **dict(changes))
    assert status in (400, 403), (status, error)
    assert error in OF_THE_SIGNATURE, (status, error)


SKEWS = (-7 * 24 * 60, -6, 6, 7 * 24 * 60)
"""Minutes between the clock of a caller and ours."""
OF_THE_SIGNATURE = {
    "InvalidSignatureException",
    "UnrecognizedClientException",
    "IncompleteSignatureException",
}


OF_THE_REQUEST = {
    "ResourceNotFoundException",
    "ValidationException",
    "UnknownOperationException",
}
REFUSED_SOONER = {"a key of nobody", "another date", "a second date"}
"""Nobody can say whose account it is; and a date must be that of the signature to be read."""


def test_without_the_check_it_would_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is then said of some is of what they ask for, not of who asks."""
    monkeypatch.setattr(authenticate, "verify", lambda *_: None)
    monkeypatch.setattr(authenticate.Authenticator, "_check_scope", lambda *_: None)
    with live_api(tmp_path) as careless:
        for name, (call, changes) in ALTERED.items():
            if name not in REFUSED_SOONER:
                status, error = _sent(careless, call, **dict(changes))
                assert status == 200 or error in OF_THE_REQUEST, (name, error)
        for minutes in SKEWS:
            call = Call(when=datetime.now(UTC) + timedelta(minutes=minutes))
            assert _sent(careless, call) == (200, "")


@pytest.mark.parametrize("operation", sorted({op.name for op in load_operations()}))
def test_unsigned(api: LiveApi, operation: str) -> None:
    found = next(op for op in load_operations() if op.name == operation)
    path = "/".join(segment.strip("{}+") for segment in found.path)
    answer = send(api, found.method, f"/{path}", b"{}", signed=False)
    assert answer.status == 403
    assert answer.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"


@pytest.mark.parametrize("minutes", SKEWS)
def test_old_and_early_requests(api: LiveApi, minutes: int) -> None:
    call = Call(when=datetime.now(UTC) + timedelta(minutes=minutes))
    assert _sent(api, call) == (403, "InvalidSignatureException")


def test_a_replayed_run_makes_no_second_microvm(api: LiveApi) -> None:
    """The very same bytes are good for five minutes, as with AWS; the client token stops them."""
    microvms = api.client("lambda-microvms")
    image = microvms.create_microvm_image(
        name="replayed",
        baseImageArn=f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        buildRoleArn="arn:aws:iam::123456789012:role/build",
        codeArtifact={"uri": "s3://bucket/app.zip"},
    )["imageArn"]
    limit = datetime.now(UTC) + timedelta(seconds=30)
    while microvms.get_microvm_image(imageIdentifier=image)["state"] != "CREATED":
        assert datetime.now(UTC) < limit
    document = {"imageIdentifier": image, "clientToken": "one-and-only"}
    call = Call("POST", body=json.dumps(document).encode())
    before = len(microvms.list_microvms()["items"])
    assert [_sent(api, call)[0] for _ in range(3)] == [200] * 3
    assert len(microvms.list_microvms()["items"]) == before + 1
    without_token = Call("POST", body=json.dumps({"imageIdentifier": image}).encode())
    assert [_sent(api, without_token)[0] for _ in range(3)] == [200] * 3
    assert len(microvms.list_microvms()["items"]) == before + 4


def test_two_signatures(api: LiveApi) -> None:
    """Whichever counts, one that does not hold never becomes one that does."""
    bad = ("authorization", Call(secret="guessed").signed(urlsplit(api.url).netloc)[-1][1])
    host = urlsplit(api.url).netloc
    good = Call().signed(host)
    assert _raw(api, MICROVMS, [bad, *good], "GET", b"")[0] == 403
    only_date = [(name, value) for name, value in good if name != "x-amz-date"]
    stamped = [*only_date, ("date", datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"))]
    assert _raw(api, MICROVMS, stamped, "GET", b"") == (400, "IncompleteSignatureException") or (
        _raw(api, MICROVMS, stamped, "GET", b"")[0] == 403
    )
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00"
    assert _raw(api, f"{MICROVMS}?{query}", good, "GET", b"")[0] == 403


PATHS = [
    "/2025-09-09/microvms/../microvm-images",
    "/2025-09-09/microvms/%2e%2e/microvm-images",
    "/2025-09-09/microvms/..%2fmicrovm-images",
    "/2025-09-09/microvms/%252e%252e%252fmicrovm-images",
    "/2025-09-09//microvms",
    "//2025-09-09/microvms",
    "/2025-09-09/microvms/.",
    "/2025-09-09/microvms;a=b",
    "/2025-09-09/microvms/%00",
    "/2025-09-09/microvms/..%5c..%5cstate.db",
    "/2025-09-09/microvms/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/2025-09-09/microvms/microvm-1%2fsuspend",
    "/2025-09-09/microvms/microvm-1%0d%0aX:%20y",
    "/2025-09-09/microvms/%ff%fe",
    "/2025-09-09/microvms/%c0%ae%c0%ae",
    "/2025-09-09/microvms/%zz",
    "/2025-09-09/microvm-images/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Amicrovm-image%3A..",
    "/microvmd/v1/microvms/..%2f..%2fhealth",
    "/microvmd/v1/logs?group=../../keys&stream=..%2f..",
    "/microvmd/v1/logs?group=/etc&stream=passwd",
]


def test_some_lead_out_of_a_directory_where_names_are_paths(tmp_path: Path) -> None:
    def naive(path: str) -> Path:
        return (tmp_path / unquote(unquote(urlsplit(path).path)).lstrip("/")).resolve()

    out = [path for path in PATHS if not naive(path.replace("%00", "")).is_relative_to(tmp_path)]
    assert out == ["/2025-09-09/microvms/..%2f..%2f..%2f..%2fetc%2fpasswd"]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_lead_elsewhere(api: LiveApi, path: str) -> None:
    """Signed by a known key, so only the path itself is in question."""
    answer = send(api, "GET", path)
    assert answer.status < 500, answer
    if answer.status == 200:
        # Nothing but an empty answer for a name that nobody has.
        assert path.startswith("/microvmd/v1/logs"), answer
        assert answer.content == b""
    assert b"root:" not in answer.content
    assert b"SQLite" not in answer.content


BOMBS: dict[str, bytes] = {
    "deep lists": b'{"tags":' + b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of many digits": b'{"maximumDurationInSeconds":' + b"9" * 500_000 + b"}",
    "an exponent": b'{"maximumDurationInSeconds":1e999999}',
    "a small exponent": b'{"maximumDurationInSeconds":1e-999999}',
    "NaN": b'{"maximumDurationInSeconds":NaN}',
    "Infinity": b'{"maximumDurationInSeconds":-Infinity}',
    "many members": b"{" + b",".join(b'"k%d":1' % n for n in range(80_000)) + b"}",
    "one member many times": b"{" + b",".join([b'"imageIdentifier":"a"'] * 40_000) + b"}",
    "a long string": b'{"imageIdentifier":"' + b"a" * 900_000 + b'"}',
    "many colons": b'{"imageIdentifier":"' + b":" * 900_000 + b'"}',
    "bytes that are no UTF-8": b'{"imageIdentifier":"\xff\xfe\xc0\x80"}',
    "half a pair": b'{"imageIdentifier":"\\ud800"}',
    "nulls": b'{"imageIdentifier":"\\u0000\\u0000"}',
    "UTF-16": '{"imageIdentifier":"a"}'.encode("utf-16"),
    "UTF-8 with a mark": b'\xef\xbb\xbf{"imageIdentifier":"a"}',
    "two documents": b'{"imageIdentifier":"a"}{"imageIdentifier":"b"}',
    "a comment": b'{"imageIdentifier":"a"/*b*/}',
    "a string": b'"imageIdentifier"',
    "blanks": b" " * 900_000 + b"1",
    "nothing but a bracket": b"{",
}


def test_a_plain_reader_takes_bombs_or_falls_over_them() -> None:
    """Those that it takes are then an infinity, a string that nobody can encode, or one of many."""
    taken, crashed = set(), set()
    for name, body in BOMBS.items():
        try:
            json.loads(body)
            taken.add(name)
        except RecursionError:
            crashed.add(name)
        except ValueError:
            continue
    assert crashed == {"deep lists", "deep objects"}
    assert taken >= {"an exponent", "NaN", "Infinity", "one member many times", "half a pair"}
    assert taken >= {"many members", "a long string", "nulls", "UTF-16", "blanks"}


@pytest.mark.parametrize("name", BOMBS)
def test_bodies_that_are_bombs(api: LiveApi, name: str) -> None:
    answer = send(api, "POST", MICROVMS, BOMBS[name])
    assert 400 <= answer.status < 500, (answer.status, answer.content[:200])
    assert answer.headers["x-amzn-errortype"]
    assert len(answer.content) < 2_000_000
    assert send(api, "GET", MICROVMS).status == 200


def test_compressed_and_oversized_bodies(api: LiveApi) -> None:
    small = gzip.compress(b"0" * (64 << 20))
    assert len(small) * 500 < len(gzip.decompress(small)), "where somebody unpacks it"
    packed = send(api, "POST", MICROVMS, small, {"Content-Encoding": "gzip"})
    assert packed.status == 400
    with contextlib.suppress(OSError):
        assert 400 <= send(api, "POST", MICROVMS, b"0" * (8 << 20)).status < 500
    assert send(api, "GET", MICROVMS).status == 200


HEALTHY = b'"status":"ok"'
SMUGGLED = (
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 0\r\nContent-Length: 30\r\n\r\n",
    b"Content-Length: +0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
)


@pytest.mark.parametrize("body", SMUGGLED)
def test_two_requests_in_one(api: LiveApi, body: bytes) -> None:
    """Nobody stands before the API by default; whoever does must not be led astray by it. After a
    request that is one to every parser, the same second one is answered."""
    health = f"GET /microvmd/v1/health HTTP/1.1\r\nHost: {urlsplit(api.url).netloc}\r\n".encode()
    second = health + b"Connection: close\r\n\r\n"
    assert _told(api, health + b"\r\n" + second).count(HEALTHY) == 2
    begun = b"POST /2025-09-09/microvms HTTP/1.1\r\nHost: a\r\n"
    assert HEALTHY not in _told(api, begun + body + second)


def _told(api: LiveApi, content: bytes) -> bytes:
    """All that comes back on one connection until it is closed, without blanks."""
    answer = b""
    made = socket.create_connection(_place(api), timeout=5)
    with made as connection, contextlib.suppress(OSError):
        connection.sendall(content)
        while data := connection.recv(65536):
            answer += data
    return answer.replace(b" ", b"")


def _place(api: LiveApi) -> tuple[str, int]:
    split = urlsplit(api.url)
    assert split.hostname is not None
    assert split.port is not None
    return split.hostname, split.port


BEGUN = {
    "silent": b"",
    "one byte": b"G",
    "half a head": b"GET /2025-09-09/microvms HTTP/1.1\r\nHost: a\r\nX: ",
    "half a body": (
        b"POST /2025-09-09/microvms HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{"
    ),
}


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_one_of_them_holds_up_a_server_that_waits_for_each(begun: bytes) -> None:
    class Patient(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))

        def log_message(self, format: str, *args: object) -> None:
            """Not into the output of the tests."""

    with HTTPServer(("127.0.0.1", 0), Patient) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with httpx.Client(timeout=30, trust_env=False) as client:
            assert client.get(url).status_code == 200
            with socket.create_connection(("127.0.0.1", server.server_port)) as slow:
                slow.sendall(begun)
                with pytest.raises(httpx.ReadTimeout):
                    client.get(url, timeout=0.3)
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_many_connections_that_do_not_go_on(api: LiveApi, begun: bytes) -> None:
    """All others are answered meanwhile, and nothing is kept of them afterwards."""
    before = len(os.listdir("/proc/self/fd"))

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MANY):
                _, writer = await asyncio.open_connection(*_place(api))
                stack.callback(writer.transport.abort)
                writer.write(begun)
            for _ in range(5):
                answer = await asyncio.to_thread(send, api, "GET", MICROVMS)
                assert answer.status == 200

    asyncio.run(scenario())
    limit = datetime.now(UTC) + timedelta(seconds=30)
    while len(os.listdir("/proc/self/fd")) > before + 5:
        assert datetime.now(UTC) < limit, "connections stay open"


def test_headers_without_end(api: LiveApi) -> None:
    flood: Mapping[str, str] = {f"x-{number}": "y" * 60 for number in range(2000)}
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert 400 <= send(api, "GET", MICROVMS, headers=flood).status < 500
    assert send(api, "GET", MICROVMS).status == 200
