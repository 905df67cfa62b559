"""What the objects of one account may take of the local AWS server, which keeps them in memory and,
where they are large, in temporary files.

Runs inside that server's process, around its application. S3 itself knows no such bound, so the
refusal has the error that clients know for too large an object.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from microvmd.api.local.errors import error_body
from microvmd.api.local.headers import ACCOUNT_HEADER

OBJECT_BYTES = 32 << 10
"""What an object or a part takes beside its content, with room: it bounds how many there are."""
_ACCOUNT = f"HTTP_{ACCOUNT_HEADER.upper().replace('-', '_')}"
_DECODED = "HTTP_X_AMZ_DECODED_CONTENT_LENGTH"

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class StorageLimit:
    """WSGI middleware: refuses what would let an account's objects take more than `limit` bytes."""

    def __init__(self, app: Application, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._lock = threading.Lock()
        self._arriving: Counter[str] = Counter()
        """Bytes that requests under way may add, by account."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not _stores(environ):
            return self._app(environ, start_response)
        account = str(environ.get(_ACCOUNT, ""))
        length = _length(environ)
        if length is None:
            return _error(
                start_response, HTTPStatus.LENGTH_REQUIRED, "MissingContentLength", NO_LENGTH
            )
        with self._lock:
            sizes = list(_sizes(account))
            # The source of a copy may be any of them.
            adds = length + OBJECT_BYTES + (max(sizes, default=0) if _copies(environ) else 0)
            if sum(sizes) + self._arriving[account] + adds > self._limit:
                text = FULL.format(limit=self._limit >> 20)
                return _error(start_response, HTTPStatus.BAD_REQUEST, "EntityTooLarge", text)
            self._arriving[account] += adds
        try:
            return self._app(environ, start_response)  # it has read and kept all when it returns
        finally:
            with self._lock:
                self._arriving[account] -= adds


NO_LENGTH = "You must provide the Content-Length HTTP header."
FULL = (
    "The account's objects may take {limit} MiB here: delete some, or let the operator raise "
    "aws.local_s3_mib."
)


def _stores(environ: Environ) -> bool:
    scope = str(environ.get("HTTP_AUTHORIZATION", ""))
    return "/s3/aws4_request" in scope and environ.get("REQUEST_METHOD") in ("PUT", "POST")


def _copies(environ: Environ) -> bool:
    return "HTTP_X_AMZ_COPY_SOURCE" in environ


def _length(environ: Environ) -> int | None:
    """Bytes of the content; the relay lets no request send more than it says."""
    said = environ.get(_DECODED) or environ.get("CONTENT_LENGTH")
    if not said:
        return None if environ.get("HTTP_TRANSFER_ENCODING") else 0
    return int(said) if said.isascii() and said.isdigit() else None


def _sizes(account: str) -> Iterator[int]:
    """What each object, version and part of an account takes, and each bucket."""
    from moto.s3.models import s3_backends

    for backend in list(s3_backends[account].values()):
        for bucket in list(backend.buckets.values()):
            yield OBJECT_BYTES
            for name in list(bucket.keys):
                for key in list(bucket.keys.getlist(name, [])):
                    # A mark of a deletion has no content.
                    yield OBJECT_BYTES + getattr(key, "contentsize", 0)
            for upload in list(bucket.multiparts.values()):
                yield OBJECT_BYTES
                for part in list(upload.parts.values()):
                    yield OBJECT_BYTES + part.contentsize


def _error(
    start_response: StartResponse, status: HTTPStatus, code: str, message: str
) -> Iterable[bytes]:
    media_type, body = error_body("s3", code, message, status)
    headers = [("Content-Type", media_type), ("Content-Length", str(len(body)))]
    # The body of the request was not read: the next one cannot be found behind it.
    start_response(f"{status.value} {status.phrase}", [*headers, ("Connection", "close")])
    return [body]
