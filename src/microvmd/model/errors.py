"""Every error that a caller of the API can cause or meet.

::

    ApiError
     +- ValidationError        400 ValidationException
     +- InvalidParameter       400 InvalidParameterValueException
     +- AccessDenied           403 AccessDeniedException
     +- NotFound               404 ResourceNotFoundException
     +- Conflict               409 ConflictException
     +- QuotaExceeded          402 ServiceQuotaExceededException
     +- Throttled              429 ThrottlingException
     +- InsufficientCapacity   500 InsufficientCapacityException
     +- InternalError          500 InternalServerException
         +- Unwritable         the same, with Retry-After

``api/`` turns them into wire errors in one place; nothing below ``api/`` knows a status code.
"""

from typing import ClassVar


class ApiError(Exception):
    """An answer other than success. ``code`` is the AWS error name."""

    code: ClassVar[str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ValidationError(ApiError):
    """The request breaks a rule that the caller can read and mend."""

    code = "ValidationException"


class InvalidParameter(ApiError):
    """The same in lambda-core, for rules that its model does not tell."""

    code = "InvalidParameterValueException"


class AccessDenied(ApiError):
    """The caller may not do this, or names a thing in a form that AWS refuses as 403."""

    code = "AccessDeniedException"


class NotFound(ApiError):
    """The named thing does not exist for this account."""

    code = "ResourceNotFoundException"

    def __init__(
        self, message: str, *, resource_type: str | None = None, resource_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.resource_id = resource_id


class Conflict(ApiError):
    """The thing's state does not allow this now."""

    code = "ConflictException"


class QuotaExceeded(ApiError):
    """The account's limit is reached."""

    code = "ServiceQuotaExceededException"


class Throttled(ApiError):
    """Too many calls. ``retry_after`` is in seconds."""

    code = "ThrottlingException"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InsufficientCapacity(ApiError):
    """No node has room for another MicroVM."""

    code = "InsufficientCapacityException"


class InternalError(ApiError):
    """Our fault; the log holds the cause under the request id."""

    code = "InternalServerException"


class Unwritable(InternalError):
    """The record cannot be written now. ``retry_after`` is in seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreUnavailable(Exception):
    """The record cannot be read or written now; nothing of the decision is kept. It may pass."""
