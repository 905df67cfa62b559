"""Bytes to a typed request, by the shapes of the model. Says what does not parse; limits are
checked afterwards, in validate.py."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.utils import parse_timestamp

from microvmd.api.errors import SerializationError, UnparsableQuery
from microvmd.api.operations import body_members, wire_name
from microvmd.api.routes import Match, decode

_DIGITS = re.compile(r"-?[0-9]{1,19}")
_INTEGERS = {"integer": 2**31, "long": 2**63}


def parse_request(
    match: Match, query: str, headers: Mapping[str, str], body: bytes
) -> dict[str, Any]:
    """Read the members of the operation's input. Unknown members are ignored, null is absent."""
    shape = match.operation.input
    if shape is None:
        return {}
    pairs = parse_query(query)
    request: dict[str, Any] = {}
    for name, member in shape.members.items():
        value = _located(name, member, match.labels, pairs, headers)
        if value is not None:
            request[name] = value
    if body_members(shape):
        request.update(_parse_body(shape, body))
    return request


def parse_query(query: str) -> list[tuple[str, str]]:
    """Split and decode a query string. A second raw ``=`` in a pair is refused, as recorded."""
    pairs = []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if "=" in value:
            raise UnparsableQuery("a raw = in a query value")
        pairs.append((decode(name.replace("+", " ")), decode(value.replace("+", " "))))
    return pairs


def _located(
    name: str,
    member: Shape,
    labels: Mapping[str, str],
    query: list[tuple[str, str]],
    headers: Mapping[str, str],
) -> Any:  # noqa: ANN401 - the type is the shape's
    wire = wire_name(name, member)
    match member.serialization.get("location"):
        case "uri":
            return _from_text(member, labels[wire])
        case "querystring":
            values = [value for key, value in query if key == wire]
            if isinstance(member, ListShape):
                return [_from_text(member.member, value) for value in values] or None
            return _from_text(member, values[0]) if values else None
        case "header":
            text = headers.get(wire.lower())
            return None if text is None else _from_text(member, text)
        case _:
            return None


def _from_text(shape: Shape, text: str) -> Any:  # noqa: ANN401 - the type is the shape's
    try:
        match shape.type_name:
            case "integer" | "long":
                return _bounded(_digits(text), shape.type_name)
            case "boolean":
                return {"true": True, "false": False}[text]
            case "timestamp":
                return parse_timestamp(text)
            case "float" | "double":
                return float(text)
            case _:
                return text
    except (ValueError, KeyError) as error:
        raise UnparsableQuery(f"{text[:64]} is no {shape.type_name}") from error


def _digits(text: str) -> int:
    """``int`` alone would also take underscores, blanks and other scripts' digits."""
    if not _DIGITS.fullmatch(text):
        raise ValueError("no whole number")
    return int(text)


def _parse_body(shape: StructureShape, body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SerializationError("The request body is not valid JSON") from error
    if not isinstance(document, dict):
        raise SerializationError("Unexpected value where a structure was expected")
    return _members(body_members(shape), document)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _members(members: Mapping[str, Shape], document: Mapping[str, Any]) -> dict[str, Any]:
    found = ((n, m, document.get(wire_name(n, m))) for n, m in members.items())
    return {name: _from_json(member, value) for name, member, value in found if value is not None}


def _from_json(shape: Shape, value: Any) -> Any:  # noqa: ANN401 - JSON
    match shape:
        case StructureShape():
            if not isinstance(value, dict):
                # Recorded for {"allPorts": true}: a structure without members expects "null".
                text = "a structure" if shape.members else "null"
                raise SerializationError(f"Expected {text}")
            return _members(shape.members, value)
        case ListShape():
            if not isinstance(value, list):
                raise SerializationError("Expected list or null")
            return [None if item is None else _from_json(shape.member, item) for item in value]
        case MapShape():
            if not isinstance(value, dict):
                raise SerializationError("Expected map or null")
            return {
                _text(key): None if item is None else _from_json(shape.value, item)
                for key, item in value.items()
            }
        case _:
            return _scalar(shape.type_name, value)


def _scalar(kind: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    match kind:
        case "string":
            return _text(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" | "long":
            return _integer(kind, value)
        case "float" | "double" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "timestamp":
            return _timestamp(value)
        case "blob" if isinstance(value, str):
            return _blob(value)
    raise SerializationError(f"{_java_token(value)} cannot be converted to {kind.capitalize()}")


def _text(value: Any) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise SerializationError(f"{_java_token(value)} cannot be converted to String")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SerializationError("A string is not valid Unicode") from error
    return value


def _integer(kind: str, value: Any) -> int:  # noqa: ANN401 - JSON
    whole = isinstance(value, float) and value.is_integer()
    if not whole and (not isinstance(value, int) or isinstance(value, bool)):
        raise SerializationError(f"{_java_token(value)} cannot be converted to {kind.capitalize()}")
    try:
        return _bounded(int(value), kind)
    except ValueError as error:
        raise SerializationError(str(error)) from error


def _bounded(number: int, kind: str) -> int:
    limit = _INTEGERS[kind]
    if not -limit <= number < limit:
        raise ValueError(f"The number is out of the range of {kind.capitalize()}")
    return number


def _timestamp(value: Any) -> datetime:  # noqa: ANN401 - JSON
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        return parse_timestamp(_text(value))
    except (ValueError, OverflowError, OSError) as error:
        raise SerializationError("Unparsable timestamp") from error


def _blob(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SerializationError("Unparsable base64") from error


def _java_token(value: Any) -> str:  # noqa: ANN401 - JSON
    """AWS names the JSON token by its Java enum."""
    match value:
        case bool():
            return f"{str(value).upper()}_VALUE"
        case int() | float():
            return "NUMBER_VALUE"
        case str():
            return "STRING_VALUE"
        case list():
            return "START_ARRAY"
        case _:
            return "START_OBJECT"
