"""Faulty requests get modelled refusals and leave nothing; `./run bench fuzz` sends 100,000."""

import asyncio
import os
import random

import pytest

from tests.conftest import SEED_VARIABLE
from tests.fuzz.campaign import run
from tests.fuzz.corpus import OPERATIONS, World, real_request
from tests.fuzz.mutations import mutate
from tests.fuzz.signing import Signer
from tests.fuzz.targets import TARGETS, try_target

REQUESTS = 4000
CONNECTIONS = 400
SECONDS = 30.0
MEMORY_LIMIT_MIB = 64.0


def _seed() -> int:
    return int(os.environ[SEED_VARIABLE])


def test_faulty_requests() -> None:
    outcome = asyncio.run(run(_seed(), REQUESTS, CONNECTIONS, limit=SECONDS))
    assert not outcome.findings, "\n".join(outcome.findings[:5])
    assert not outcome.leaks(MEMORY_LIMIT_MIB)
    assert outcome.requests > 100
    # Without these the requests would not come past the signature.
    assert outcome.answers["200 -"]
    assert outcome.answers["400 SerializationException"]


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    assert not try_target(name, _seed(), 2000)


def test_a_seed_gives_the_same_requests() -> None:
    def made() -> list[tuple[str, str, bytes]]:
        found = []
        for number in range(100):
            rng = random.Random(f"7:{number}")
            raw = real_request(rng.choice(OPERATIONS), World(), rng)
            mutate(raw, rng)
            found.append((raw.method, raw.target, raw.body))
        return found

    assert _without_tokens(made()) == _without_tokens(made())


def _without_tokens(requests: list[tuple[str, str, bytes]]) -> list[tuple[str, str, int]]:
    return [(method, target, len(body)) for method, target, body in requests]


def test_our_signer_is_botocores() -> None:
    """The signer of this folder makes the signature that botocore makes of a real request."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    from tests.clients.live import KEY, REGION

    rng = random.Random(_seed())
    for operation in OPERATIONS:
        raw = real_request(operation, World(), rng)
        Signer().sign(raw)
        request = AWSRequest(raw.method, f"http://127.0.0.1{raw.target}", data=raw.body)
        for name, value in raw.headers:
            if name not in (b"authorization", b"host"):
                request.headers[name.decode()] = value.decode()
        signer = SigV4Auth(Credentials(KEY.access_key, KEY.secret_key), "lambda", REGION)
        stamp = raw.get(b"x-amz-date").decode()
        request.context["timestamp"] = stamp
        text = signer.string_to_sign(request, signer.canonical_request(request))
        assert raw.get(b"authorization").decode().endswith(signer.signature(text, request))
