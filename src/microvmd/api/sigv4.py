"""AWS Signature Version 4, checked with the signer that the clients sign with (botocore's).

Two steps, because the body is read in between: ``read_signature`` finds out who signs what and
when, ``verify`` recomputes the signature. Works for the header form and the presigned query form;
S3 has its own canonical path and payload rules.
"""

import re
from datetime import datetime, timedelta
from hashlib import sha256
from urllib.parse import quote, unquote_to_bytes

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as SigningKey
from botocore.utils import normalize_url_path

from microvmd.api.credentials import Identity
from microvmd.api.errors import SignatureError
from microvmd.api.presigned import check_old, read_old
from microvmd.api.signed import (
    HASH,
    STAMP,
    UNSIGNED,
    Signature,
    SignedRequest,
    check_body,
    equal,
    incomplete,
    mismatch,
    moment,
    query_pairs,
)

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW = timedelta(minutes=5)
MAX_PRESIGNED = 7 * 24 * 3600

_EMPTY = sha256(b"").hexdigest()
# Time, body and token are compared with what the signature says, whether signed themselves or not.
_COVERED_OTHERWISE = frozenset({"x-amz-date", "x-amz-content-sha256", "x-amz-security-token"})
_UNRECOGNISED = "The security token included in the request is invalid."


def read_signature(request: SignedRequest) -> Signature:
    """Take the signature apart; raise SignatureError when there is none or it is incomplete."""
    authorization = request.header("authorization")
    if authorization is not None:
        return _from_header(request, authorization)
    pairs = query_pairs(request.query)
    query = {n.decode(errors="replace"): v.decode(errors="replace") for n, v in pairs}
    if "X-Amz-Algorithm" in query or "X-Amz-Signature" in query:
        return _from_query(request, query)
    if "AWSAccessKeyId" in query:
        return read_old(query)
    raise SignatureError("MissingAuthenticationTokenException", "Missing Authentication Token")


def verify(
    request: SignedRequest,
    claim: Signature,
    identity: Identity | None,
    body: bytes | None,
    now: datetime,
) -> None:
    """Raise SignatureError unless the identity's secret made this signature, now.

    A caller that streams the body passes None; then it has to check ``claim.body_hash`` itself.
    """
    if identity is None or not _same_token(identity, claim):
        raise SignatureError("UnrecognizedClientException", _UNRECOGNISED)
    if identity.expired(now):
        raise SignatureError(
            "ExpiredTokenException", "The security token included in the request is expired"
        )
    if claim.old_expiry is not None:
        check_old(request, claim, identity, now)
        return
    _check_time(claim, now)
    if not equal(_expected(request, claim, identity, body or b""), claim.signature):
        raise mismatch()
    _check_covered(request, claim)
    if body is not None and claim.body_hash is not None:
        check_body(claim, sha256(body).hexdigest())


def _from_header(request: SignedRequest, authorization: str) -> Signature:
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise incomplete("Authorization header requires the algorithm AWS4-HMAC-SHA256.")
    fields = {}
    for part in rest.split(","):
        name, _, value = part.strip().partition("=")
        fields[name] = value
    missing = [n for n in ("Credential", "Signature", "SignedHeaders") if not fields.get(n)]
    stamp = request.header("x-amz-date")
    if missing or stamp is None:
        texts = [f"Authorization header requires '{name}' parameter." for name in missing]
        if stamp is None:
            texts.append("Authorization header requires existence of either a 'X-Amz-Date' header.")
        raise incomplete(" ".join(texts))
    return _claim(
        credential=fields["Credential"],
        stamp=stamp,
        signed_headers=fields["SignedHeaders"],
        signature=fields["Signature"],
        session_token=request.header("x-amz-security-token"),
        content_sha256=request.header("x-amz-content-sha256"),
        lifetime=None,
    )


def _from_query(request: SignedRequest, query: dict[str, str]) -> Signature:
    names = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
    missing = [f"'X-Amz-{name}'" for name in names if not query.get(f"X-Amz-{name}")]
    if missing:
        raise incomplete(f"AWS query-string parameters must include {', '.join(missing)}.")
    lifetime = query["X-Amz-Expires"]
    if query["X-Amz-Algorithm"] != ALGORITHM:
        raise incomplete("AWS query-string parameters require the algorithm AWS4-HMAC-SHA256.")
    if not re.fullmatch(r"[0-9]{1,6}", lifetime) or not 0 < int(lifetime) <= MAX_PRESIGNED:
        raise incomplete("X-Amz-Expires must be a number of seconds of at most one week.")
    return _claim(
        credential=query["X-Amz-Credential"],
        stamp=query["X-Amz-Date"],
        signed_headers=query["X-Amz-SignedHeaders"],
        signature=query["X-Amz-Signature"],
        session_token=query.get("X-Amz-Security-Token"),
        content_sha256=request.header("x-amz-content-sha256"),
        lifetime=int(lifetime),
    )


def _claim(
    *,
    credential: str,
    stamp: str,
    signed_headers: str,
    signature: str,
    session_token: str | None,
    content_sha256: str | None,
    lifetime: int | None,
) -> Signature:
    scope = credential.rsplit("/", 4)
    if len(scope) != 5 or scope[4] != "aws4_request" or not all(scope):
        raise incomplete("Credential must have the form key/date/region/service/aws4_request.")
    if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", stamp):
        raise incomplete("X-Amz-Date must be in the ISO 8601 basic format.")
    try:
        moment(stamp)
    except ValueError as error:
        raise incomplete("X-Amz-Date is not a date.") from error
    if scope[1] != stamp[:8]:
        raise SignatureError(
            "InvalidSignatureException",
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from "
            f"HTTP: '{scope[1]}' != '{stamp[:8]}', from '{stamp}'.",
        )
    names = tuple(name.strip().lower() for name in signed_headers.split(";"))
    if "host" not in names:
        raise SignatureError(
            "InvalidSignatureException", "'Host' must be a 'SignedHeader' in the signature."
        )
    return Signature(
        access_key=scope[0],
        region=scope[2],
        service=scope[3],
        stamp=stamp,
        signed_headers=names,
        signature=signature,
        session_token=session_token,
        content_sha256=_content_hash(scope[3], content_sha256, names, lifetime),
        lifetime=lifetime,
    )


def _content_hash(
    service: str, given: str | None, signed_headers: tuple[str, ...], lifetime: int | None
) -> str | None:
    """Only S3 takes words (UNSIGNED-PAYLOAD, STREAMING-...) in place of a hash; and a presigned
    URL says nothing about the body unless the header itself is signed."""
    if lifetime is not None and "x-amz-content-sha256" not in signed_headers:
        return None
    if given is None:
        return _EMPTY if service == "s3" else None
    return given if service == "s3" or HASH.fullmatch(given) else None


def _same_token(identity: Identity, claim: Signature) -> bool:
    have, want = claim.session_token, identity.session_token
    if have is None or want is None:
        return have == want
    return equal(want, have)


def _check_time(claim: Signature, now: datetime) -> None:
    if claim.time > now + MAX_SKEW:
        text = now.strftime(STAMP)
        latest = (now + MAX_SKEW).strftime(STAMP)
        raise SignatureError(
            "InvalidSignatureException",
            f"Signature not yet current: {claim.stamp} is still later than {latest} "
            f"({text} + 5 min.)",
        )
    life = MAX_SKEW if claim.lifetime is None else timedelta(seconds=claim.lifetime)
    if claim.time < now - life:
        text = now.strftime(STAMP)
        earliest = (now - life).strftime(STAMP)
        minutes = int(life.total_seconds() // 60)
        raise SignatureError(
            "InvalidSignatureException",
            f"Signature expired: {claim.stamp} is now earlier than {earliest} "
            f"({text} - {minutes} min.)",
        )


def _check_covered(request: SignedRequest, claim: Signature) -> None:
    """Whoever was handed a presigned URL must not make another request of it: with
    ``x-amz-copy-source`` a PUT is a copy of whatever the signer may read."""
    loose = {name for name, _ in request.headers if name.startswith("x-amz-")}
    loose -= {*claim.signed_headers, *_COVERED_OTHERWISE}
    if loose:
        raise SignatureError(
            "InvalidSignatureException",
            "There were headers present in the request which were not signed: "
            f"{', '.join(sorted(loose))}",
        )


class _Recompute(SigV4Auth):
    """Signs what was received: exactly the headers that were signed, whatever they are."""

    claim: Signature

    def canonical_path(self, path: str) -> str:
        return quote(normalize_url_path(path), safe="/~")

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        """The request holds those that were signed and sent; one that was not sent is empty."""
        for name in self.claim.signed_headers:
            if name not in request.headers:
                request.headers[name] = ""
        return request.headers

    def canonical_query_string(self, request: AWSRequest) -> str:
        """Encode again, as AWS does: clients differ in what they escape on the wire."""
        pairs = [
            (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
            for name, value in query_pairs(request.context["query"])
            if name != b"X-Amz-Signature" or self.claim.lifetime is None
        ]
        return "&".join(f"{name}={value}" for name, value in sorted(pairs))

    def payload(self, request: AWSRequest) -> str:
        if not self.claim.covers_body:
            return UNSIGNED
        return sha256(request.context["body"]).hexdigest()

    def canonical_request(self, request: AWSRequest) -> str:
        headers = self.headers_to_sign(request)
        return "\n".join(
            [
                str(request.method).upper(),
                self.canonical_path(request.context["path"]),
                self.canonical_query_string(request),
                self.canonical_headers(headers) + "\n",
                self.signed_headers(headers),
                self.claim.content_sha256 or self.payload(request),
            ]
        )


class _RecomputeS3(_Recompute):
    """S3: the path is encoded once and not normalised."""

    def canonical_path(self, path: str) -> str:
        return quote(unquote_to_bytes(path), safe="/~")


def _expected(request: SignedRequest, claim: Signature, identity: Identity, body: bytes) -> str:
    kind = _RecomputeS3 if claim.service == "s3" else _Recompute
    signer = kind(
        SigningKey(identity.access_key, identity.secret_key, identity.session_token),
        claim.service,
        claim.region,
    )
    signer.claim = claim
    carrier = AWSRequest(method=request.method, url="http://request.invalid/")
    for name, value in request.headers:
        if name in claim.signed_headers:
            carrier.headers[name] = value
    carrier.context.update(
        timestamp=claim.stamp, path=request.path or "/", query=request.query, body=body
    )
    text = signer.string_to_sign(carrier, signer.canonical_request(carrier))
    return str(signer.signature(text, carrier))


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")
