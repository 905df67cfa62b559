"""Fuzz targets below HTTP: the reader of signatures, the opener of cursors, the node's messages.

Each takes anything and has exactly one way to refuse it.
"""

import base64
import random
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from microvmd.api.authenticate import SIGNING_NAME
from microvmd.api.errors import SignatureError
from microvmd.api.signed import SignedRequest
from microvmd.api.sigv4 import read_signature, verify
from microvmd.control.paging import Cursors
from microvmd.messages.node_rules import check
from microvmd.messages.node_wire import HEADER_SIZE, TO_NODE, WireError
from microvmd.model.errors import ValidationError
from tests.clients.live import KEY
from tests.fuzz.mutations import in_signature, mutate
from tests.fuzz.signing import Raw, Signer
from tests.nodemessages import SAMPLES, spoiled

NOISE = "AZ09-_=+/ é\0,;\x85\u2028"


def cursor(rng: random.Random) -> str | None:
    """A faulty cursor is refused as such."""
    cursors = Cursors(b"k" * 32)
    positions: list[str | int] = [rng.randrange(1 << 40), "name", ""]
    good = cursors.seal("list", rng.choice(positions))
    token = _faulty(good, rng)
    try:
        found = cursors.open("list", token)
    except ValidationError:
        return None
    except Exception as error:  # the finding
        return f"{token!r}: {error!r}"
    return None if found == cursors.open("list", good) else f"{token!r} means {found!r}"


def _faulty(token: str, rng: random.Random) -> str:
    at = rng.randrange(len(token) + 1)
    return rng.choice(
        [
            token[:at],
            token[:at] + rng.choice(NOISE) + token[at + 1 :],
            token + rng.choice(["A", "=", "AAAA", token]),
            base64.urlsafe_b64encode(rng.randbytes(rng.randrange(64))).decode(),
            "".join(chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(20))),
        ]
    )


def signature(rng: random.Random) -> str | None:
    """A signature is right, or refused; and it is never right for another request."""
    raw = Raw("POST", f"/2025-09-09/microvms?a={quote(chr(rng.randrange(1, 0x3000)))}", [], b"{}")
    Signer().sign(raw)
    kept = Raw(raw.method, raw.target, list(raw.headers), raw.body)
    rng.choice([in_signature, in_signature, mutate, _noise])(raw, rng)
    try:
        request = _received(raw)
        claim = read_signature(request)
        verify(request, claim, KEY, raw.body, datetime.now(UTC))
    except SignatureError:
        return None
    except Exception as error:  # the finding
        return f"{raw!r}: {error!r}"
    return None if claim.service != SIGNING_NAME or _same(kept, raw) else f"{raw!r} was taken"


def _noise(raw: Raw, rng: random.Random) -> None:
    value = raw.get(b"authorization").decode()
    raw.set(b"authorization", _faulty(value, rng).encode())


def _same(one: Raw, other: Raw) -> bool:
    """Covered parts are alike: method, path, query, body and the headers that were signed."""
    names = {name for name, _ in one.headers} - {b"authorization"}
    covered = [(name, value) for name, value in other.headers if name in names]
    return (one.method, one.body) == (other.method, other.body) and sorted(covered) == sorted(
        (name, value) for name, value in one.headers if name in names
    )


def _received(raw: Raw) -> SignedRequest:
    return SignedRequest(
        raw.method,
        raw.path,
        raw.query,
        tuple((name.decode("latin-1").lower(), _text(value)) for name, value in raw.headers),
    )


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def node_message(rng: random.Random) -> str | None:
    """A message to the node is within the rules, or refused."""
    payload = spoiled(TO_NODE.encode(rng.choice(SAMPLES))[HEADER_SIZE:], rng)
    try:
        found = TO_NODE.decode(payload)
        check(found)
        again = TO_NODE.decode(TO_NODE.encode(found)[HEADER_SIZE:])
    except WireError:
        return None
    except Exception as error:  # the finding
        return f"{payload!r}: {error!r}"
    return None if again == found else f"{payload!r} means {found!r} and {again!r}"


TARGETS: dict[str, Callable[[random.Random], str | None]] = {
    "cursor": cursor,
    "node_message": node_message,
    "signature": signature,
}


def try_target(name: str, seed: int, count: int) -> list[str]:
    """What is wrong, in ``count`` tries."""
    tries = (TARGETS[name](random.Random(f"{name}:{seed}:{number}")) for number in range(count))
    return [found for found in tries if found is not None]
