"""Who is refused before any operation is looked at, as each client tells it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.client_awscli import AwsCli
from tests.clients.client_boto3 import Boto3Client
from tests.clients.client_javascript import JavaScriptSdk
from tests.clients.live import LiveApi
from tests.clients.outcome import Caller, Client
from tests.clients.served import AWSCLI, BOTO3, JAVASCRIPT

pytestmark = pytest.mark.client

CLIENTS: dict[str, Callable[[LiveApi, Path, Caller], Client]] = {
    BOTO3: lambda api, _, caller: Boto3Client(api, caller),
    AWSCLI: AwsCli,
    JAVASCRIPT: lambda api, _, caller: JavaScriptSdk(api, caller),
}
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
