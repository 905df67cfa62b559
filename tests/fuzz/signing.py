"""Requests as bytes, and a Signature Version 4 that signs whatever they are.

botocore signs only what it would send itself. To bring any path, query, header or body to the
handlers, the canonical form is written here once more, from AWS's description of it.
"""

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from urllib.parse import quote, unquote_to_bytes

from tests.clients.live import KEY, REGION

Headers = list[tuple[bytes, bytes]]
STAMP = "%Y%m%dT%H%M%SZ"


@dataclass
class Raw:
    """One request; ``target`` is path and query as they stand on the request line."""

    method: str
    target: str
    headers: Headers = field(default_factory=list)
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def with_path(self, path: str) -> str:
        return f"{path}?{self.query}" if self.query else path

    def set(self, name: bytes, value: bytes) -> None:
        """Replace a header."""
        self.headers = [(k, v) for k, v in self.headers if k.lower() != name.lower()]
        self.headers.append((name, value))

    def get(self, name: bytes) -> bytes:
        return next((v for k, v in self.headers if k.lower() == name.lower()), b"")


@dataclass(frozen=True)
class Signer:
    """Who signs, and for what; the defaults are right."""

    access_key: str = KEY.access_key
    secret: str = KEY.secret_key
    region: str = REGION
    service: str = "lambda"
    late: timedelta = timedelta()

    def sign(self, raw: Raw) -> None:
        """Add Host, X-Amz-Date and Authorization."""
        moment = datetime.now(UTC) - self.late
        stamp = moment.strftime(STAMP)
        raw.set(b"host", b"127.0.0.1")
        raw.set(b"x-amz-date", stamp.encode())
        names = sorted({name.lower().decode("latin-1") for name, _ in raw.headers})
        names = [n for n in names if n not in ("authorization", "content-length", "expect")]
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        text = "\n".join(
            ["AWS4-HMAC-SHA256", stamp, scope, sha256(_canonical(raw, names)).hexdigest()]
        )
        key = _key(self.secret, stamp[:8], self.region, self.service)
        signature = hmac.new(key, text.encode(), sha256).hexdigest()
        raw.set(
            b"authorization",
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}".encode("latin-1"),
        )


@cache
def _key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), sha256).digest()
    return key


def _canonical(raw: Raw, names: list[str]) -> bytes:
    pairs = []
    for pair in filter(None, raw.query.split("&")):
        name, _, value = pair.partition("=")
        decoded = (unquote_to_bytes(name), unquote_to_bytes(value))
        pairs.append([quote(part, safe="-_.~") for part in decoded])
    lines = [
        raw.method.upper(),
        quote(_without_dots(raw.path), safe="/~"),
        "&".join(f"{name}={value}" for name, value in sorted(pairs)),
        *(f"{name}:{_value(raw, name)}" for name in names),
        "",
        ";".join(names),
        sha256(raw.body).hexdigest(),
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _value(raw: Raw, name: str) -> str:
    values = [v for k, v in raw.headers if k.lower().decode("latin-1") == name]
    return ",".join(" ".join(_text(value).split()) for value in values)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _without_dots(path: str) -> str:
    """The path without ``.``, ``..`` and empty segments, as every signer but S3's takes it."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    closed = "/" if kept and path.endswith("/") else ""
    return f"/{'/'.join(kept)}{closed}"
