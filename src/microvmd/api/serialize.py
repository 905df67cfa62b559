"""A handler's result to the bytes of an answer, by the shapes of the model."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from microvmd.api.errors import WireError
from microvmd.api.operations import Operation, wire_name

# Members that the real service sends and no model mentions (recorded answers, section 1).
UNMODELLED = frozenset(
    {
        "id",
        "terminationReasonCode",
        "buildPhaseOverrides",
        "roleConfiguration",
        "versionStateTimeBucket",
    }
)

UNRECORDED = frozenset({"kmsKeyIdentifier"})
"""Members newer than every recording: no recorded body has them as null, so they are left out."""

_JSON = "application/json"
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class UnservableResult(Exception):
    """A handler's result does not fit the model: a fault of ours, never the caller's."""


@dataclass(frozen=True, slots=True)
class WireResponse:
    """An answer as it is sent."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def serialize_response(operation: Operation, result: Mapping[str, Any]) -> WireResponse:
    """Write a result. Unset members of the output, and of the items of a listing, become null for
    lambda-microvms, as recorded; for lambda-core they are left out, as recorded too."""
    if operation.status == 204:
        return WireResponse(204, b"")
    document = response_document(operation, result)
    return WireResponse(operation.status, _dump(document), {"content-type": _JSON})


def response_document(operation: Operation, result: Mapping[str, Any]) -> dict[str, Any]:
    """The same before it becomes JSON; empty where the operation has no output."""
    if operation.output is None:
        return {}
    return _structure(operation.output, result, nulls=operation.explicit_nulls)


def serialize_error(error: WireError) -> WireResponse:
    """Write an error: its name goes into a header, its members into the body."""
    if isinstance(error.body, str):
        content_type, body = "text/html", error.body.encode()
    else:
        content_type, body = _JSON, _dump(error.body)
    headers = {"content-type": content_type, "x-amzn-errortype": error.code, **error.headers}
    return WireResponse(error.status, body, headers)


def _dump(document: Mapping[str, Any]) -> bytes:
    return _ENCODER.encode(document).encode()


def _structure(shape: StructureShape, value: Mapping[str, Any], *, nulls: bool) -> dict[str, Any]:
    unknown = value.keys() - shape.members.keys() - UNMODELLED
    if unknown:
        raise UnservableResult(f"{shape.name} has no member {', '.join(sorted(unknown))}")
    document: dict[str, Any] = {}
    for name, member in shape.members.items():
        item = value.get(name)
        if item is not None:
            document[wire_name(name, member)] = _value(member, item, nulls=nulls)
        elif name in shape.required_members:
            raise UnservableResult(f"{shape.name} needs {name}")
        elif nulls and name not in UNRECORDED:
            document[wire_name(name, member)] = None
    document.update({name: value[name] for name in UNMODELLED if name in value})
    return document


def _value(shape: Shape, value: Any, *, nulls: bool = False) -> Any:  # noqa: ANN401 - by shape
    match shape:
        case StructureShape():
            return _structure(shape, value, nulls=False)
        case ListShape(member=StructureShape() as member) if nulls:
            return [_structure(member, item, nulls=not member.is_tagged_union) for item in value]
        case ListShape():
            return [_value(shape.member, item) for item in value]
        case MapShape():
            return {str(key): _value(shape.value, item) for key, item in value.items()}
        case _:
            return _scalar(shape, value)


def _scalar(shape: Shape, value: Any) -> Any:  # noqa: ANN401 - by shape
    match shape.type_name:
        case "timestamp":
            return _timestamp(value, str(shape.serialization.get("timestampFormat", "")))
        case "blob":
            return base64.b64encode(value).decode()
        case "integer" | "long":
            return int(value)
        case "boolean":
            return bool(value)
        case "float" | "double":
            return float(value)
        case _:
            return str(value)


def _timestamp(value: datetime | float, form: str) -> float | str:
    """Epoch seconds with milliseconds, or ISO 8601 where the model asks for it."""
    moment = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
    if form == "iso8601":
        text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
        return text.replace("+00:00", "Z")
    seconds = round(moment.timestamp(), 3)
    return int(seconds) if seconds.is_integer() else seconds
