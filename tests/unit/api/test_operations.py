"""What is read from the models: names, paths, shapes; and the models that are refused."""

import pytest
from botocore.model import ServiceModel

from microvmd.api.operations import (
    Operation,
    UnsupportedModel,
    body_members,
    from_model,
)


def test_both_services_are_whole(operations: dict[str, Operation]) -> None:
    by_service: dict[str, int] = {}
    for operation in operations.values():
        by_service[operation.service] = by_service.get(operation.service, 0) + 1
    assert by_service["lambda-microvms"] >= 24
    assert by_service["lambda-core"] >= 6


def test_one_operation(operations: dict[str, Operation]) -> None:
    found = operations["CreateMicrovmAuthToken"]
    assert found.handler_name == "create_microvm_auth_token"
    assert found.path == ("2025-09-09", "microvms", "{microvmIdentifier}", "auth-token")
    assert (found.method, found.status, found.explicit_nulls) == ("POST", 200, True)
    assert found.input is not None
    assert set(body_members(found.input)) == {"expirationInMinutes", "allowedPorts"}
    assert found.error("ConflictException") is not None
    assert found.error("ServiceException") is None
    assert not operations["ListNetworkConnectors"].explicit_nulls


@pytest.mark.parametrize(
    ("uri", "members", "extra"),
    [
        ("/a?fixed=1", {}, {}),
        ("/a", {"m": {"shape": "S"}}, {"payload": "m"}),
        ("/a", {"m": {"shape": "S", "location": "statusCode"}}, {}),
    ],
)
def test_what_the_wire_does_not_speak_is_refused(
    uri: str, members: dict[str, object], extra: dict[str, object]
) -> None:
    model = ServiceModel(
        {
            "metadata": {"protocol": "rest-json", "serviceId": "x"},
            "operations": {
                "Do": {
                    "name": "Do",
                    "http": {"method": "GET", "requestUri": uri},
                    "input": {"shape": "In"},
                }
            },
            "shapes": {
                "In": {"type": "structure", "members": members, **extra},
                "S": {"type": "string"},
            },
        },
        "x",
    )
    with pytest.raises(UnsupportedModel):
        from_model(model.operation_model("Do"))
