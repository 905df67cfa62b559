"""Every operation by every unmodified client: boto3, the AWS CLI, the AWS SDK for JavaScript."""

import pytest

from microvmd.api.operations import CORE, MICROVMS, load_operations
from tests.clients.exercises.everything import MODULES
from tests.clients.exercises.registry import REGISTERED, Exercises
from tests.clients.served import AWSCLI, BOTO3, JAVASCRIPT

pytestmark = pytest.mark.client

OFFERED = [operation for operation in load_operations() if operation.service == MICROVMS]
# There is no package of the JavaScript SDK for lambda-core.
PAIRS = [
    (client, operation.name)
    for client in (BOTO3, AWSCLI, JAVASCRIPT)
    for operation in OFFERED
    if not (client == JAVASCRIPT and operation.service == CORE)
]


@pytest.mark.parametrize(("client", "operation"), PAIRS)
def test_operation(exercises: Exercises, client: str, operation: str) -> None:
    exercises.run(client, operation)
    served = exercises.world.api.served
    assert served.succeeded(client, operation), "the server saw no such call succeed"
    assert served.errors([client], operation), "the server saw no such call refused"


def test_every_operation_has_an_exercise() -> None:
    assert len(MODULES) > 0
    assert {operation.name for operation in OFFERED} == REGISTERED.keys()
