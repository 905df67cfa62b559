"""Every operation by every unmodified client: boto3, the AWS CLI, the AWS SDK for JavaScript."""

import pytest

from microvmd.api.operations import load_operations
from tests.clients.exercises.everything import MODULES
from tests.clients.exercises.registry import OFFERED, REGISTERED, Exercises
from tests.clients.served import AWSCLI, BOTO3, JAVASCRIPT

pytestmark = pytest.mark.client

# Operations that a client's own model does not have; test_lacking holds this against the clients.
LACKING = {
    BOTO3: frozenset[str](),
    AWSCLI: frozenset({"ListNetworkConnectorVersions"}),
    # There is no package for lambda-core on npm.
    JAVASCRIPT: frozenset(name for name in OFFERED if "NetworkConnector" in name),
}
PAIRS = [
    (client, name) for client, lacking in LACKING.items() for name in OFFERED if name not in lacking
]


@pytest.mark.parametrize(("client", "operation"), PAIRS)
def test_operation(exercises: Exercises, client: str, operation: str) -> None:
    exercises.run(client, operation)
    served = exercises.world.api.served
    assert served.succeeded(client, operation), "the server saw no such call succeed"
    assert served.errors([client], operation), "the server saw no such call refused"


@pytest.mark.parametrize("operation", sorted(REGISTERED.keys() - set(OFFERED)))
def test_not_offered(exercises: Exercises, operation: str) -> None:
    """Only boto3 knows these operations."""
    exercises.run(BOTO3, operation)
    assert not exercises.world.api.served.succeeded(BOTO3, operation)


def test_every_operation_has_an_exercise() -> None:
    assert len(MODULES) > 0
    assert {operation.name for operation in load_operations()} == REGISTERED.keys()


def test_lacking(exercises: Exercises) -> None:
    found = {
        name: frozenset(OFFERED) - client.model.operations
        for name, client in exercises.clients.items()
    }
    assert found == LACKING
