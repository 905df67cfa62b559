"""Names and statuses of errors that belong to no operation, and of those every operation has."""

import pytest

from microvmd.api.errors import (
    BodyTimeout,
    BodyTooLarge,
    NotOffered,
    UnknownOperation,
    wire_error,
)
from microvmd.api.operations import Operation
from microvmd.api.serialize import serialize_error
from microvmd.model.errors import (
    AccessDenied,
    ApiError,
    Conflict,
    InsufficientCapacity,
    InternalError,
    NotFound,
    QuotaExceeded,
    Throttled,
    Unwritable,
    ValidationError,
)

_EVERY = [
    ValidationError("x"),
    AccessDenied("x"),
    NotFound("x"),
    Conflict("x"),
    QuotaExceeded("x"),
    Throttled("x", retry_after=1),
    InsufficientCapacity("x"),
    InternalError("x"),
    Unwritable("x", retry_after=1),
    NotOffered("x"),
]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BodyTooLarge("x"), 413),
        (BodyTimeout("x"), 408),
        (NotFound("x"), 404),
        (QuotaExceeded("x"), 402),
        (InternalError("x"), 500),
    ],
)
def test_without_an_operation(error: ApiError, status: int) -> None:
    wire = wire_error(error)
    assert (wire.status, wire.code, wire.body) == (status, error.code, {"message": "x"})


def test_what_is_no_operation_is_told_in_html() -> None:
    answer = serialize_error(wire_error(UnknownOperation("x")))
    assert (answer.status, answer.headers["content-type"]) == (404, "text/html")
    assert answer.body == b"<UnknownOperationException/>\n"


@pytest.mark.parametrize("error", _EVERY, ids=lambda error: type(error).__name__)
def test_with_every_operation(operations: dict[str, Operation], error: ApiError) -> None:
    """Whatever a handler raises, the client gets a status, a name and the text."""
    for operation in operations.values():
        wire = wire_error(error, operation)
        assert wire.status >= 400
        assert isinstance(wire.body, dict)
        assert "x" in (wire.body.get("message"), wire.body.get("Message"))
        shape = operation.error(wire.code)
        if shape is not None and not isinstance(error, NotOffered):
            assert wire.status == shape.metadata["error"]["httpStatusCode"]


def test_a_denial_of_lambda_core_has_a_capital(operations: dict[str, Operation]) -> None:
    for name, member in (("GetNetworkConnector", "Message"), ("GetMicrovm", "message")):
        wire = wire_error(AccessDenied("x"), operations[name])
        assert (wire.status, wire.body) == (403, {member: "x"})


def test_details_of_the_missing_thing(operations: dict[str, Operation]) -> None:
    error = NotFound("x", resource_type="microvm", resource_id="microvm-1")
    assert wire_error(error, operations["GetMicrovm"]).body == {
        "message": "x",
        "resourceType": "microvm",
        "resourceId": "microvm-1",
    }
