"""Who is refused before any operation is looked at, as each client tells it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from microvmd.api.operations import MICROVMS, load_operations
from tests.clients.exercises.denied import BY_AWSCLI, CLIENTS
from tests.clients.live import ACCOUNT, LiveApi
from tests.clients.outcome import Caller, Outcome
from tests.clients.served import AWSCLI

pytestmark = pytest.mark.client

ASKED = [
    (client, operation.name)
    for client in CLIENTS
    for operation in load_operations()
    if operation.service == MICROVMS and (client != AWSCLI or operation.name in BY_AWSCLI)
]
REFUSED = {
    "InvalidSignatureException": Caller(secret_key="wrong"),
    "UnrecognizedClientException": Caller(access_key="AKIANOBODY"),
}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("error", REFUSED)
@pytest.mark.usefixtures("javascript")
def test_wrong_keys(api: LiveApi, tmp_path: Path, name: str, error: str) -> None:
    client = CLIENTS[name](api, tmp_path, REFUSED[error])
    try:
        outcome = client.call("ListMicrovms")
    finally:
        client.close()
    assert (outcome.status, outcome.error) == (403, error)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.usefixtures("javascript")
def test_wrong_region(api: LiveApi, tmp_path: Path, name: str) -> None:
    client = CLIENTS[name](api, tmp_path, Caller(region="eu-west-1"))
    try:
        outcome = client.call("ListMicrovms")
    finally:
        client.close()
    assert (outcome.status, outcome.error) == (403, "InvalidSignatureException")
    assert outcome.message is not None
    assert "us-east-1" in outcome.message


@pytest.mark.parametrize(("client", "operation"), ASKED)
def test_without_rights(
    denials: Mapping[tuple[str, str], Outcome], client: str, operation: str
) -> None:
    outcome = denials[client, operation]
    assert outcome.refusal == (403, "AccessDeniedException")
    assert outcome.message is not None
    assert outcome.message.startswith(
        f"User: arn:aws:iam::{ACCOUNT}:user/nobody is not authorized to perform: lambda:{operation}"
    )
