"""Requests to the API that are not what their signature says, or more than a server should read.

Over real sockets. Whether a signature is checked at all is taken out first, to see the same
requests succeed.
"""

from __future__ import annotations

import contextlib
import gzip
import hmac
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from microvmd.api import authenticate, service
from microvmd.api.operations import load_operations
from microvmd.api.signed import Signature
from tests.clients.live import KEY, REGION, LiveApi, live_api
from tests.clients.raw import send

pytestmark = pytest.mark.security

MICROVMS = "/2025-09-09/microvms"
STAMP = "%Y%m%dT%H%M%SZ"


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


def _asked(api: LiveApi, operation: str, *, signed: bool) -> tuple[int, str]:
    """Status and error of the answer to a request without any content."""
    found = next(op for op in load_operations() if op.name == operation)
    path = "/".join(segment.strip("{}+") for segment in found.path)
    answer = send(api, found.method, f"/{path}", b"{}", signed=signed)
    return answer.status, answer.headers.get("x-amzn-errortype", "")


OPERATIONS = sorted({op.name for op in load_operations()})


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unsigned(api: LiveApi, operation: str) -> None:
    refused = (403, "MissingAuthenticationTokenException")
    assert _asked(api, operation, signed=False) == refused
    assert _asked(api, operation, signed=True) != refused


def test_unsigned_where_it_is_taken_for_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each then gets what it would get if the account had signed it."""
    stamp = datetime.now(UTC).strftime(STAMP)
    taken = Signature(KEY.access_key, REGION, "lambda", stamp, (), "", None, None)
    monkeypatch.setattr(service, "read_signature", lambda _: taken)
    monkeypatch.setattr(authenticate, "verify", lambda *_: None)
    with live_api(tmp_path) as careless:
        for operation in OPERATIONS:
            found = _asked(careless, operation, signed=False)
            assert found[0] != 403
            assert found == _asked(careless, operation, signed=True)


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
