"""URLs that were presigned in the old way of S3 (Signature Version 2).

boto3 still makes them when nothing else is asked for, so an S3 of ours must take them. The query
carries ``AWSAccessKeyId``, ``Signature`` and ``Expires``; nothing says anything about the body.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import HmacV1QueryAuth
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as SigningKey

from microvmd.api.credentials import Identity
from microvmd.api.errors import SignatureError
from microvmd.api.signed import (
    UNSIGNED,
    Signature,
    SignedRequest,
    equal,
    incomplete,
    mismatch,
    query_pairs,
)

_COVERED = frozenset({"content-md5", "content-type"})


def read_old(query: Mapping[str, str]) -> Signature:
    """Take the signature out of the query; raise SignatureError when it is incomplete."""
    expires = query.get("Expires", "")
    if not query.get("Signature") or not re.fullmatch(r"[0-9]{1,12}", expires):
        raise incomplete("Query-string authentication requires Signature, Expires and the key id.")
    return Signature(
        access_key=query["AWSAccessKeyId"],
        region="",
        service="s3",
        stamp="",
        signed_headers=(),
        signature=query["Signature"],
        session_token=query.get("x-amz-security-token"),
        content_sha256=UNSIGNED,
        old_expiry=int(expires),
    )


def check_old(request: SignedRequest, claim: Signature, identity: Identity, now: datetime) -> None:
    """Raise SignatureError unless the identity's secret made this URL and it has not expired.

    The path of the request is in path style, whatever the style of the URL.
    """
    assert claim.old_expiry is not None
    if now.timestamp() > claim.old_expiry:
        raise SignatureError("AccessDenied", "Request has expired")
    signer = _OldSigner(
        SigningKey(identity.access_key, identity.secret_key, identity.session_token)
    )
    signer.expiry = claim.old_expiry
    split = urlsplit(f"http://request.invalid{request.path}?{request.query}")
    expected = signer.get_signature(request.method, split, _covered(request))
    if not equal(expected, claim.signature):
        raise mismatch()


class _OldSigner(HmacV1QueryAuth):
    """Signs with the expiry that the URL names, not with one counted from now."""

    expiry: int

    def _get_date(self) -> str:
        return str(self.expiry)


def _covered(request: SignedRequest) -> Any:  # noqa: ANN401 - botocore changes what it is given
    """Headers that the signer had. It moved them into the query; those that are sent win, so that
    none can be sent that was not signed."""
    signed = {
        key: value.decode(errors="replace")
        for name, value in query_pairs(request.query)
        if _is_covered(key := name.decode(errors="replace").lower())
    }
    headers = HTTPHeaders()
    for key, text in (signed | {k: v for k, v in request.headers if _is_covered(k)}).items():
        headers[key] = text
    return headers


def _is_covered(name: str) -> bool:
    return name.startswith("x-amz-") or name in _COVERED
