"""Signatures made by botocore itself, header and presigned form; tampered, skewed, replayed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import botocore.session
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from microvmd.api.credentials import Identity
from microvmd.api.errors import SignatureError
from microvmd.api.signed import SignedRequest, check_body
from microvmd.api.sigv4 import read_signature, verify

_KEY = Identity("AKIDEXAMPLE", "secret/+key", "123456789012")
_SESSION = replace(_KEY, access_key="ASIAEXAMPLE", session_token="token+/=")
_ARN = "arn:aws:lambda:us-east-1:123456789012:microvm-image:web"


class _Captured(Exception):
    def __init__(self, request: AWSPreparedRequest) -> None:
        self.request = request


def _capture(request: AWSPreparedRequest, **_: object) -> None:
    raise _Captured(request)


@contextmanager
def _sent_by(service: str, identity: Identity = _KEY, **config: Any) -> Iterator[Any]:
    """A botocore client whose requests end up in ``_Captured``, signed and ready to be sent."""
    client = botocore.session.Session().create_client(
        service,
        region_name="us-east-1",
        endpoint_url="http://127.0.0.1:8480",
        aws_access_key_id=identity.access_key,
        aws_secret_access_key=identity.secret_key,
        aws_session_token=identity.session_token,
        config=Config(retries={"total_max_attempts": 1}, **config),
    )
    client.meta.events.register("before-send", _capture)
    yield client
    client.close()


def _signed(call: Callable[[Any], object], service: str, **options: Any) -> tuple[Any, bytes]:
    with _sent_by(service, **options) as client, pytest.raises(_Captured) as caught:
        call(client)
    sent = caught.value.request
    return _received(sent.method, sent.url, dict(sent.headers)), _bytes(sent.body)


def _bytes(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode()
    return b"" if body is None else bytes(body) if isinstance(body, bytes) else body.read()


def _received(method: str | None, url: str | None, headers: dict[str, Any]) -> SignedRequest:
    """The request as a server sees it: raw path and query, lower-case names, a Host."""
    path, _, query = str(url).removeprefix("http://127.0.0.1:8480").partition("?")
    pairs = {"host": "127.0.0.1:8480"}
    for name, value in headers.items():
        pairs[name.lower()] = value.decode() if isinstance(value, bytes) else str(value)
    return SignedRequest(str(method), path, query, tuple(pairs.items()))


def _check(request: SignedRequest, body: bytes | None, identity: Identity = _KEY) -> None:
    verify(request, read_signature(request), identity, body, datetime.now(UTC))


def _name(request: SignedRequest, body: bytes | None, identity: Identity | None = _KEY) -> str:
    with pytest.raises(SignatureError) as caught:
        verify(request, read_signature(request), identity, body, datetime.now(UTC))
    return caught.value.name


_CALLS: list[tuple[str, Callable[[Any], object]]] = [
    ("lambda-microvms", lambda c: c.run_microvm(imageIdentifier=_ARN, runHookPayload="ü")),
    ("lambda-microvms", lambda c: c.get_microvm_image(imageIdentifier=_ARN)),
    ("lambda-microvms", lambda c: c.list_microvms(nextToken="a+b/c==", imageVersion="1.0")),
    ("lambda-microvms", lambda c: c.untag_resource(Resource=_ARN, TagKeys=["b", "a", "a b"])),
    ("lambda-core", lambda c: c.list_network_connectors(MaxItems=2)),
    ("sts", lambda c: c.get_caller_identity()),
    ("iam", lambda c: c.get_role(RoleName="build")),
    ("logs", lambda c: c.describe_log_groups(logGroupNamePrefix="/aws")),
    ("s3", lambda c: c.put_object(Bucket="b", Key="a b/ü+(1)~.zip", Body=b"zip")),
    ("s3", lambda c: c.list_objects_v2(Bucket="b", Prefix="a b/ü+", Delimiter="/")),
    ("s3", lambda c: c.get_object(Bucket="b", Key="a//b/../c")),
]


@pytest.mark.parametrize(("service", "call"), _CALLS)
@pytest.mark.parametrize("identity", [_KEY, _SESSION], ids=["long-term", "session"])
def test_botocore_signatures_hold(
    service: str, call: Callable[[Any], object], identity: Identity
) -> None:
    request, body = _signed(call, service, identity=identity)
    claim = read_signature(request)
    streamed = None if service == "s3" else body
    verify(request, claim, identity, streamed, datetime.now(UTC))
    if claim.body_hash is not None:
        check_body(claim, sha256(body).hexdigest())


def _run() -> tuple[SignedRequest, bytes]:
    return _signed(lambda client: client.run_microvm(imageIdentifier=_ARN), "lambda-microvms")


def test_tampering_is_seen() -> None:
    request, body = _run()
    _check(request, body)
    host = tuple((n, "evil" if n == "host" else v) for n, v in request.headers)
    for changed in (
        replace(request, method="PUT"),
        replace(request, path="/2025-09-09/microvm-images"),
        replace(request, query="maxResults=1"),
        replace(request, headers=host),
    ):
        assert _name(changed, body) == "InvalidSignatureException"
    assert _name(request, body + b" ") == "InvalidSignatureException"
    assert _name(request, body, replace(_KEY, secret_key="other")) == "InvalidSignatureException"
    assert _name(request, body, None) == "UnrecognizedClientException"


def test_payload_hash_header_is_held_to_the_body() -> None:
    request, _ = _signed(lambda c: c.put_object(Bucket="b", Key="k", Body=b"zip"), "s3")
    assert _name(request, b"zap") == "InvalidSignatureException"
    with pytest.raises(SignatureError):
        check_body(read_signature(request), sha256(b"zap").hexdigest())


def test_lambda_takes_no_unsigned_payload() -> None:
    request = AWSRequest("POST", "http://127.0.0.1:8480/2025-09-09/microvms", data=b"{}")
    request.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"
    SigV4Auth(Credentials("AKIDEXAMPLE", "secret/+key"), "lambda", "us-east-1").add_auth(request)
    received = _received("POST", request.url, dict(request.headers))
    assert _name(received, b'{"other": 1}') == "InvalidSignatureException"


@pytest.mark.parametrize("minutes", [-6, 6])
def test_clock_skew(minutes: int) -> None:
    request, body = _run()
    with pytest.raises(SignatureError, match=r"Signature (expired|not yet current): ") as caught:
        verify(
            request,
            read_signature(request),
            _KEY,
            body,
            datetime.now(UTC) + timedelta(minutes=minutes),
        )
    assert caught.value.name == "InvalidSignatureException"


def test_session_tokens() -> None:
    request, body = _signed(
        lambda c: c.run_microvm(imageIdentifier=_ARN), "lambda-microvms", identity=_SESSION
    )
    other = replace(_SESSION, session_token="other")
    assert _name(request, body, other) == "UnrecognizedClientException"
    assert _name(request, body, replace(_SESSION, session_token=None)) == (
        "UnrecognizedClientException"
    )
    expired = replace(_SESSION, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert _name(request, body, expired) == "ExpiredTokenException"


def test_presigned_s3() -> None:
    with _sent_by("s3", signature_version="s3v4") as client:
        url = client.generate_presigned_url(
            "get_object", {"Bucket": "b", "Key": "a b+c"}, ExpiresIn=60
        )
    request = _received("GET", url, {})
    _check(request, None)
    assert _name(replace(request, path="/b/other"), None) == "InvalidSignatureException"
    later = datetime.now(UTC) + timedelta(seconds=61)
    with pytest.raises(SignatureError, match="Signature expired"):
        verify(request, read_signature(request), _KEY, None, later)


def test_presigned_api_call() -> None:
    request = AWSRequest("GET", "http://127.0.0.1:8480/2025-09-09/microvms?imageVersion=1.0")
    SigV4QueryAuth(Credentials("AKIDEXAMPLE", "secret/+key"), "lambda", "us-east-1").add_auth(
        request
    )
    received = _received("GET", request.url, {})
    _check(received, b"")
    assert _name(received, b"body") == "InvalidSignatureException"


def _header_signed(body: bytes = b"", **headers: str) -> SignedRequest:
    """A RunMicrovm with further headers, all signed."""
    request = AWSRequest("POST", "http://127.0.0.1:8480/2025-09-09/microvms", data=body)
    for name, value in headers.items():
        request.headers[name.replace("_", "-")] = value
    SigV4Auth(Credentials("AKIDEXAMPLE", "secret/+key"), "lambda", "us-east-1").add_auth(request)
    return _received("POST", request.url, dict(request.headers))


def _adding(request: SignedRequest, *headers: tuple[str, str]) -> SignedRequest:
    return replace(request, headers=(*request.headers, *headers))


def test_a_request_may_be_repeated_while_its_time_is_good() -> None:
    """As on AWS: there is no memory of signatures (docs/reference/choices.md)."""
    request, body = _run()
    claim = read_signature(request)
    for seconds in (0, 0, 299):
        verify(request, claim, _KEY, body, claim.time + timedelta(seconds=seconds))
    with pytest.raises(SignatureError, match="Signature expired"):
        verify(request, claim, _KEY, body, claim.time + timedelta(seconds=301))


@pytest.mark.parametrize("seconds", [-300, 300])
def test_five_minutes_are_within_the_skew(seconds: int) -> None:
    request, body = _run()
    claim = read_signature(request)
    verify(request, claim, _KEY, body, claim.time + timedelta(seconds=seconds))


def test_the_skew_is_told_as_recorded() -> None:
    request, body = _run()
    claim = read_signature(request)
    now = claim.time + timedelta(minutes=7)
    with pytest.raises(SignatureError) as caught:
        verify(request, claim, _KEY, body, now)
    earliest = now - timedelta(minutes=5)
    assert caught.value.message == (
        f"Signature expired: {claim.stamp} is now earlier than {earliest:%Y%m%dT%H%M%SZ} "
        f"({now:%Y%m%dT%H%M%SZ} - 5 min.)"
    )


@pytest.mark.parametrize(
    "word", ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x"]
)
def test_lambda_takes_no_word_in_place_of_a_hash(word: str) -> None:
    request = _header_signed(b"{}", X_Amz_Content_SHA256=word)
    for body in (b"{}", b'{"other": 1}'):
        assert _name(request, body) == "InvalidSignatureException"


def test_a_hash_that_is_not_the_bodys_is_refused() -> None:
    wrong = sha256(b"other").hexdigest()
    assert _name(_header_signed(b"{}", X_Amz_Content_SHA256=wrong), b"{}") == (
        "InvalidSignatureException"
    )
    right = sha256(b"{}").hexdigest()
    _check(_header_signed(b"{}", X_Amz_Content_SHA256=right), b"{}")


@pytest.mark.parametrize("name", ["host", "x-amz-date", "x-amz-meta"])
def test_a_signed_header_sent_twice_is_refused(name: str) -> None:
    """Before or after the real one: no reader may take a value that was not signed."""
    request = _header_signed(b"{}", X_Amz_Meta="a")
    _check(request, b"{}")
    for value in ("evil", dict(request.headers)[name]):
        twice = (name, value)
        for bent in (_adding(request, twice), replace(request, headers=(twice, *request.headers))):
            assert _name(bent, b"{}") in (
                "InvalidSignatureException",
                "IncompleteSignatureException",
            )


def test_only_the_first_authorization_counts() -> None:
    request = _header_signed(b"{}")
    _check(_adding(request, ("authorization", "Basic dTpw")), b"{}")
    bent = replace(request, headers=(("authorization", "Basic dTpw"), *request.headers))
    assert _name(bent, b"{}") == "IncompleteSignatureException"


def test_a_signature_in_the_query_adds_nothing_to_one_in_the_header() -> None:
    request = _header_signed(b"{}")
    for query in ("X-Amz-Signature=x", "X-Amz-Security-Token=x", "AWSAccessKeyId=x"):
        assert _name(replace(request, query=query), b"{}") == "InvalidSignatureException"


def test_a_token_with_a_long_term_key_is_refused() -> None:
    for request in (
        _header_signed(b"{}", X_Amz_Security_Token="token"),
        _adding(_header_signed(b"{}"), ("x-amz-security-token", "token")),
    ):
        assert _name(request, b"{}") == "UnrecognizedClientException"


@pytest.mark.parametrize("name", ["x-amz-copy-source", "x-amz-acl", "x-amz-target", "x-amz-new"])
def test_headers_with_a_meaning_must_be_signed(name: str) -> None:
    with _sent_by("s3", signature_version="s3v4") as client:
        url = client.generate_presigned_url("put_object", {"Bucket": "b", "Key": "k"})
    request = _received("PUT", url, {})
    _check(request, None)
    with pytest.raises(SignatureError, match=f"which were not signed: {name}"):
        _check(_adding(request, (name, "/other/secret")), None)
    with pytest.raises(SignatureError, match=f"which were not signed: {name}"):
        _check(_adding(_header_signed(b"{}"), (name, "x")), b"{}")
    _check(_adding(request, ("user-agent", "curl"), ("x-amzn-trace-id", "x")), None)


@pytest.mark.parametrize("lifetime", [0, -1, 604_801, 10**9])
def test_presigned_for_too_long(lifetime: int) -> None:
    with _sent_by("s3", signature_version="s3v4") as client:
        url = client.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k"})
    bent = url.replace("X-Amz-Expires=3600", f"X-Amz-Expires={lifetime}")
    with pytest.raises(SignatureError):
        _check(_received("GET", bent, {}), None)


def test_own_canonicalisation_matches_clients_that_do_not_escape() -> None:
    """Raw colons on the wire are signed as if they were escaped."""
    path = f"/2025-09-09/microvm-images/{_ARN}"
    request = AWSRequest("GET", f"http://127.0.0.1:8480{path}")
    SigV4Auth(Credentials("AKIDEXAMPLE", "secret/+key"), "lambda", "us-east-1").add_auth(request)
    _check(_received("GET", request.url, dict(request.headers)), b"")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, "MissingAuthenticationTokenException"),
        ("Basic dTpw", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256 Credential=a/b, Signature=c", "IncompleteSignatureException"),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260730/r/lambda/aws4_request, SignedHeaders=host, "
            "Signature=c",
            "InvalidSignatureException",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260731/r/lambda/aws4_request, SignedHeaders=date, "
            "Signature=c",
            "InvalidSignatureException",
        ),
    ],
)
def test_incomplete(header: str | None, name: str) -> None:
    headers = [("host", "x"), ("x-amz-date", "20260731T000000Z")]
    if header is not None:
        headers.append(("authorization", header))
    with pytest.raises(SignatureError) as caught:
        read_signature(SignedRequest("GET", "/", "", tuple(headers)))
    assert caught.value.name == name


_TEXT = st.text(st.characters(codec="latin-1"), max_size=40)


@given(_TEXT, _TEXT, _TEXT, _TEXT, _TEXT)
def test_hostile_headers_are_refused(
    key: str, stamp: str, signature: str, path: str, query: str
) -> None:
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={key}/20260731/r/lambda/aws4_request, "
        f"SignedHeaders=host;x-{key}, Signature={signature}"
    )
    for date in (stamp, "20260731T000000Z", "20260731T999999Z"):
        headers = (("host", "x"), ("x-amz-date", date), ("authorization", authorization))
        request = SignedRequest("GET", path, query, headers)
        with pytest.raises(SignatureError):
            _read_and_verify(request)


def _read_and_verify(request: SignedRequest) -> None:
    verify(request, read_signature(request), _KEY, b"", datetime(2026, 7, 31, tzinfo=UTC))


@given(_TEXT)
def test_hostile_queries_are_refused(query: str) -> None:
    with pytest.raises(SignatureError):
        read_signature(SignedRequest("GET", "/", f"X-Amz-Signature=%ff&{query}", ()))
