"""What a signature covers and what it claims; shared by the forms of signing that AWS has had."""

import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from microvmd.api.errors import SignatureError

STAMP = "%Y%m%dT%H%M%SZ"
UNSIGNED = "UNSIGNED-PAYLOAD"
HASH = re.compile(r"[0-9a-f]{64}")

_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details."
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a signature covers. ``path`` and ``query`` are as they came, still percent-encoded;
    header names are lower case and may repeat."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Signature:
    """A claim: this key signed these headers at this time for this service."""

    access_key: str
    region: str
    service: str
    stamp: str
    signed_headers: tuple[str, ...]
    signature: str
    session_token: str | None
    content_sha256: str | None
    lifetime: int | None = None
    """Seconds; set for presigned requests only."""
    old_expiry: int | None = None
    """Seconds since the epoch; set for URLs presigned in the old way (presigned.py) only."""

    @property
    def time(self) -> datetime:
        """When it was signed."""
        return moment(self.stamp)

    @property
    def body_hash(self) -> str | None:
        """The SHA-256 that the body must have, when the request says so."""
        found = self.content_sha256
        return found if found is not None and HASH.fullmatch(found) else None

    @property
    def covers_body(self) -> bool:
        """True when the signature can only be computed from the body itself."""
        return self.content_sha256 is None and not (self.service == "s3" and self.lifetime)


def moment(stamp: str) -> datetime:
    """The time that a stamp of 16 characters means; ValueError for one that is no date.

    For every request and more than once: ``strptime`` takes ten times as long.
    """
    day, clock = stamp[:8], stamp[9:15]
    return datetime(
        int(day[:4]),
        int(day[4:6]),
        int(day[6:]),
        int(clock[:2]),
        int(clock[2:4]),
        int(clock[4:]),
        tzinfo=UTC,
    )


def mismatch() -> SignatureError:
    """The signature is not the one that the secret makes."""
    return SignatureError("InvalidSignatureException", _MISMATCH)


def equal(one: str, other: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))


def incomplete(text: str) -> SignatureError:
    """A part of the signature is missing or malformed."""
    return SignatureError("IncompleteSignatureException", text)


def query_pairs(query: str) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of a query string, percent-decoded; a plus stays a plus."""
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        yield unquote_to_bytes(name), unquote_to_bytes(value)


def check_body(claim: Signature, body_hash: str) -> None:
    """Raise SignatureError when a body of this SHA-256 is not the one that was signed."""
    if claim.body_hash is not None and not equal(body_hash, claim.body_hash):
        raise mismatch()
