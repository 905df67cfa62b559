"""Errors that exist only on the wire, and the one place where an error gets its AWS shape.

::

    ApiError (model.errors)
     +- SerializationError     400 the body is not what the model says
     +- UnparsableQuery        400 {"message": null}, as recorded
     +- UnknownOperation       404 no operation has this method and path
     +- BodyTooLarge           413
     +- BodyTimeout            408
     +- NotOffered             an operation that this version does not offer
     +- SignatureError         403, see sigv4.py for its names and texts
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from botocore.model import StructureShape

from microvmd.api.operations import CORE, Operation
from microvmd.model.errors import (
    AccessDenied,
    ApiError,
    Conflict,
    InsufficientCapacity,
    InternalError,
    InvalidParameter,
    NotFound,
    QuotaExceeded,
    StoreUnavailable,
    Throttled,
    Unwritable,
    ValidationError,
)


class SerializationError(ApiError):
    """The bytes do not parse. Recorded with a capital ``Message``."""

    code = "SerializationException"


class UnparsableQuery(ApiError):
    """A query string with a raw ``=`` in a value, a broken escape or a bad number."""

    code = "ValidationException"


class UnknownOperation(ApiError):
    code = "UnknownOperationException"


class BodyTooLarge(ApiError):
    code = "RequestEntityTooLargeException"


class BodyTimeout(ApiError):
    code = "RequestTimeoutException"


class NotOffered(ApiError):
    """The model has this operation, this version of microvmd does not."""

    code = "AccessDeniedException"


class SignatureError(ApiError):
    """The caller's identity is not proven. The AWS name is the instance's own."""

    code: ClassVar[str] = "InvalidSignatureException"

    def __init__(self, name: str, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.name = name
        self.status = status


@dataclass(frozen=True, slots=True)
class WireError:
    """An error as it is sent."""

    status: int
    code: str
    body: Mapping[str, Any] | str
    """Members of a JSON document, or a page of HTML."""
    headers: Mapping[str, str] = field(default_factory=dict)


NO_OPERATION = "<UnknownOperationException/>\n"
"""Recorded: 404 and HTML, from whatever stands before the operations; these words are Coral's."""

_STATUS = {
    ValidationError: 400,
    InvalidParameter: 400,
    AccessDenied: 403,
    NotFound: 404,
    Conflict: 409,
    QuotaExceeded: 402,
    Throttled: 429,
    InsufficientCapacity: 500,
    InternalError: 500,
    SerializationError: 400,
    UnparsableQuery: 400,
    UnknownOperation: 404,
    BodyTooLarge: 413,
    BodyTimeout: 408,
    NotOffered: 403,
}

# Names of the same meaning in the two services, best first. An operation answers with the first
# that its model lists.
_NAMES: Mapping[type[ApiError], tuple[str, ...]] = {
    Conflict: ("ConflictException", "ResourceConflictException"),
    QuotaExceeded: ("ServiceQuotaExceededException", "NetworkConnectorLimitExceededException"),
    Throttled: ("ThrottlingException", "TooManyRequestsException"),
    InsufficientCapacity: (
        "InsufficientCapacityException",
        "InternalServerException",
        "ServiceException",
    ),
    InternalError: ("InternalServerException", "ServiceException"),
    Unwritable: ("InternalServerException", "ServiceException"),
    NotOffered: ("AccessDeniedException", "ServiceException"),
}


UNWRITABLE_RETRY_S = 5


def unwritable(error: StoreUnavailable) -> Unwritable:
    """What a caller is told of a store that does not work now."""
    return Unwritable(
        f"The request was not carried out: {error}. Repeat it when that is mended.",
        retry_after=UNWRITABLE_RETRY_S,
    )


def wire_error(error: ApiError, operation: Operation | None = None) -> WireError:
    """Give an error the name, status and body that the operation's model has for it."""
    if isinstance(error, SignatureError):
        return WireError(error.status, error.name, {"message": error.message})
    if isinstance(error, SerializationError):
        return WireError(400, error.code, {"Message": error.message})
    if isinstance(error, UnparsableQuery):
        return WireError(400, error.code, {"message": None})
    if isinstance(error, UnknownOperation):
        return WireError(404, error.code, NO_OPERATION)
    shape = _shape(error, operation)
    code = error.code if shape is None else shape.name
    status = _status(error, shape)
    if isinstance(error, NotOffered) and operation is not None and operation.service == CORE:
        status = 501  # recorded decision: what microvmd does not know of lambda-core answers 501
    body = _body(error, shape, explicit_nulls=operation is None or operation.explicit_nulls)
    return WireError(status, code, body, _headers(error))


def _headers(error: ApiError) -> dict[str, str]:
    if isinstance(error, Throttled | Unwritable):
        return {"Retry-After": str(error.retry_after)}
    return {}


def _shape(error: ApiError, operation: Operation | None) -> StructureShape | None:
    if operation is None:
        return None
    names = _NAMES.get(type(error), (error.code,))
    return next((shape for name in names if (shape := operation.error(name))), None)


def _status(error: ApiError, shape: StructureShape | None) -> int:
    if shape is not None:
        return int(shape.metadata.get("error", {}).get("httpStatusCode", 500))
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def _body(error: ApiError, shape: StructureShape | None, *, explicit_nulls: bool) -> dict[str, Any]:
    members = _details(error)
    if shape is None:
        # Not in lambda-core's model, whose recorded errors have capitals where Lambda's have.
        capital = isinstance(error, AccessDenied) and not explicit_nulls
        return {"Message" if capital else "message": error.message}
    body: dict[str, Any] = {}
    for name, member in shape.members.items():
        if "location" in member.serialization:
            continue
        if name.lower() == "message":
            body[name] = error.message
        elif name == "Type":
            # Recorded: lambda-core does not send it.
            if explicit_nulls:
                fault = shape.metadata.get("error", {}).get("senderFault")
                body[name] = "User" if fault else "Service"
        elif explicit_nulls or members.get(name) is not None:
            body[name] = members.get(name)
    return body


def _details(error: ApiError) -> dict[str, str | None]:
    if isinstance(error, NotFound):
        return {"resourceType": error.resource_type, "resourceId": error.resource_id}
    if isinstance(error, Throttled):
        return {"Reason": "CallerRateLimitExceeded"}
    return {}
