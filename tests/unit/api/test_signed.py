"""Small parts that every form of signing uses."""

from hashlib import sha256

import pytest

from microvmd.api.errors import SignatureError
from microvmd.api.signed import Signature, check_body, equal, query_pairs


def _claim(
    content_sha256: str | None, service: str = "s3", lifetime: int | None = None
) -> Signature:
    return Signature(
        access_key="A",
        region="r",
        service=service,
        stamp="20260730T000000Z",
        signed_headers=("host",),
        signature="s",
        session_token=None,
        content_sha256=content_sha256,
        lifetime=lifetime,
    )


def test_body_is_held_to_a_hash_only() -> None:
    digest = sha256(b"body").hexdigest()
    check_body(_claim(digest), digest)
    check_body(_claim("UNSIGNED-PAYLOAD"), digest)
    with pytest.raises(SignatureError):
        check_body(_claim(digest), sha256(b"other").hexdigest())


@pytest.mark.parametrize(
    ("claim", "covers"),
    [
        (_claim(None, "lambda"), True),
        (_claim("0" * 64, "lambda"), False),
        (_claim(None, "s3", lifetime=60), False),
        (_claim(None, "lambda", lifetime=60), True),
    ],
)
def test_when_the_signature_needs_the_body(claim: Signature, *, covers: bool) -> None:
    assert claim.covers_body is covers


def test_equal_takes_any_text() -> None:
    assert equal("abc", "abc")
    assert not equal("abc", "äbc")
    assert not equal("abc", "\udcff")


def test_query_pairs_keep_bytes_and_plus() -> None:
    assert list(query_pairs("a=%ff&&b+c&d==")) == [(b"a", b"\xff"), (b"b+c", b""), (b"d", b"=")]
