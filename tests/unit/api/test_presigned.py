"""URLs presigned by botocore in the old way: they hold, and nothing about them can be changed."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from microvmd.api.credentials import Identity
from microvmd.api.errors import SignatureError
from microvmd.api.signed import SignedRequest
from microvmd.api.sigv4 import read_signature, verify

_KEY = Identity("AKIDEXAMPLE", "secret/+key", "123456789012")
_SESSION = replace(_KEY, access_key="ASIAEXAMPLE", session_token="token+/=")


def _presigned(identity: Identity, operation: str, **parameters: Any) -> SignedRequest:
    client: Any = botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url="http://127.0.0.1:8480",
        aws_access_key_id=identity.access_key,
        aws_secret_access_key=identity.secret_key,
        aws_session_token=identity.session_token,
        config=Config(signature_version="s3"),
    )
    url = client.generate_presigned_url(operation, parameters, ExpiresIn=60)
    client.close()
    path, _, query = url.removeprefix("http://127.0.0.1:8480").partition("?")
    method = "PUT" if operation == "put_object" else "GET"
    return SignedRequest(method, path, query, (("host", "127.0.0.1:8480"),))


def _check(request: SignedRequest, identity: Identity = _KEY, seconds: int = 0) -> None:
    now = datetime.now(UTC) + timedelta(seconds=seconds)
    verify(request, read_signature(request), identity, None, now)


@pytest.mark.parametrize("identity", [_KEY, _SESSION], ids=["long-term", "session"])
def test_botocore_urls_hold(identity: Identity) -> None:
    _check(_presigned(identity, "get_object", Bucket="b", Key="a b+ü"), identity)
    _check(_presigned(identity, "get_object", Bucket="b", Key="k", VersionId="1"), identity)


def test_a_signed_content_type_must_be_sent_as_it_is() -> None:
    request = _presigned(_KEY, "put_object", Bucket="b", Key="k", ContentType="text/plain")
    for sent, holds in (("text/plain", True), ("text/html", False)):
        changed = replace(request, headers=(*request.headers, ("content-type", sent)))
        if holds:
            _check(changed)
        else:
            with pytest.raises(SignatureError):
                _check(changed)


def test_changes_are_seen() -> None:
    request = _presigned(_KEY, "get_object", Bucket="b", Key="k")
    for changed in (
        replace(request, path="/b/other"),
        replace(request, method="PUT"),
        replace(request, query=f"{request.query}&acl"),
        replace(request, query=request.query.replace("Expires=", "Expires=9")),
        replace(request, headers=(*request.headers, ("x-amz-acl", "public-read"))),
    ):
        with pytest.raises(SignatureError) as caught:
            _check(changed)
        assert caught.value.name == "InvalidSignatureException"
    with pytest.raises(SignatureError, match="Request has expired"):
        _check(request, seconds=61)
    with pytest.raises(SignatureError):
        _check(request, replace(_KEY, secret_key="other"))


@pytest.mark.parametrize("query", ["", "&Signature=x", "&Signature=x&Expires=soon"])
def test_incomplete(query: str) -> None:
    request = SignedRequest("GET", "/b/k", f"AWSAccessKeyId=A{query}", ())
    with pytest.raises(SignatureError) as caught:
        read_signature(request)
    assert caught.value.name == "IncompleteSignatureException"


_TEXT = st.text(st.characters(codec="latin-1"), max_size=30)


@given(_TEXT, _TEXT, _TEXT)
def test_hostile_urls_are_refused(path: str, query: str, value: str) -> None:
    expires = int(time.time()) + 60
    text = f"AWSAccessKeyId=AKIDEXAMPLE&Signature=%ff&Expires={expires}&{query}"
    request = SignedRequest("GET", f"/{path}", text, (("x-amz-x", value),))
    with pytest.raises(SignatureError):
        _check(request)
