"""Whether an answer is one that AWS's models allow: a legal result, or a modelled refusal."""

import json

from botocore.model import StructureShape
from botocore.parsers import create_parser

from microvmd.api.operations import CORE, Operation, load_operations
from microvmd.api.routes import Router
from microvmd.model.errors import ApiError
from tests.clients.inside import Reply
from tests.fuzz.signing import Raw

ROUTER = Router(load_operations())
EMPTY = StructureShape("Empty", {"type": "structure", "members": {}})
PARSER = create_parser("rest-json")
# Answers of the door: before it is known which operation is meant, or whether one is.
AT_THE_DOOR = {
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "IncompleteSignatureException": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "RequestEntityTooLargeException": 413,
    "RequestTimeoutException": 408,
    "SerializationException": 400,
    "UnrecognizedClientException": 403,
    "ValidationException": 400,
}


def operation_of(raw: Raw) -> Operation | None:
    """What a request means by its method and path; None for what means nothing."""
    try:
        return ROUTER.match(raw.method, raw.path).operation
    except ApiError:
        return None


def complaint(raw: Raw, reply: Reply) -> str | None:
    """What is wrong with an answer; None for a good one."""
    operation = operation_of(raw)
    if reply.header("x-amzn-requestid") is None:
        return "no request id"
    if raw.method == "HEAD":  # no operation, and an answer without a body
        return None if 400 <= reply.status < 500 else f"{reply.status} for HEAD"
    if reply.status < 400:
        return _result(operation, reply)
    return _refusal(operation, reply)


def _result(operation: Operation | None, reply: Reply) -> str | None:
    if operation is None:
        return f"{reply.status} for what is no operation"
    if reply.status != operation.status:
        return f"{reply.status} in place of {operation.status}"
    if operation.status == 204:
        return f"204 with a body {reply.body!r}" if reply.body else None
    shape = operation.output or EMPTY
    try:
        document = json.loads(reply.body)
        PARSER.parse({"status_code": reply.status, "headers": {}, "body": reply.body}, shape)
    except Exception as error:  # whatever a client stumbles over
        return f"a result that no client reads: {error!r}"
    missing = [name for name in shape.required_members if document.get(name) is None]
    return f"a result without {missing}" if missing else None


def _refusal(operation: Operation | None, reply: Reply) -> str | None:
    code = reply.header("x-amzn-errortype")
    if code is None:
        return "no x-amzn-errortype"
    if code == "UnknownOperationException":
        return None if reply.status == 404 and operation is None else f"{code} for an operation"
    try:
        document = json.loads(reply.body)
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(document, dict) or not {"message", "Message"} & document.keys():
        return "no message"
    shape = None if operation is None else operation.error(code)
    status = AT_THE_DOOR.get(code)
    if shape is not None:
        status = int(shape.metadata.get("error", {}).get("httpStatusCode", 500))
    if code == "ServiceException" and operation is not None and operation.service == CORE:
        status = 501  # what microvmd does not offer
    if status != reply.status:
        return f"{code} with {reply.status}, not {status}"
    if reply.status >= 500 and reply.status != 501:
        return f"a fault of the server: {code}"
    return None
