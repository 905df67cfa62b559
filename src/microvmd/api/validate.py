"""Every constraint of the model, with the texts that AWS answers.

Recorded: all failures of a request come in one message, before any rule of the service is looked
at; paths are camelCase whatever the member's spelling; lists and maps of plain values are reported
as a whole, with all constraints of their members; sensitive values are not echoed; members come in
the order of a Java HashMap. Patterns match the whole value and are written in Java's syntax.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import regex
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

from microvmd.model.errors import ValidationError

_NO_LINE_END = "[^\\n\\r\x85\u2028\u2029]"
_NOT_NULL = "Member must not be null"
_SHOWN = 50  # failures listed in one message; their number is always the true one
_ECHO = 8192  # characters of a refused value that are sent back
_SCALARS = frozenset({"string", "integer", "long", "float", "double", "boolean", "timestamp"})


def validate(shape: StructureShape | None, request: Mapping[str, Any]) -> None:
    """Raise ValidationError that names every broken constraint of the request."""
    failures = [] if shape is None else list(_structure(shape, request, ""))
    if failures:
        noun = "error" if len(failures) == 1 else "errors"
        text = "; ".join(failures[:_SHOWN])
        raise ValidationError(f"{len(failures)} validation {noun} detected: {text}")


def failure(path: str, value: object, constraint: str, *, sensitive: bool = False) -> str:
    """One failure in AWS's words."""
    shown = "" if sensitive else f" {_echo(value)}"
    return f"Value{shown} at '{path}' failed to satisfy constraint: {constraint}"


def _structure(shape: StructureShape, value: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in java_order(tuple(shape.members)):
        member = shape.members[name]
        below = _join(path, name)
        if value.get(name) is not None:
            yield from _value(member, value[name], below)
        elif name in shape.required_members:
            yield failure(below, None, _NOT_NULL)
    if shape.is_tagged_union and sum(v is not None for v in value.values()) != 1:
        members = ", ".join(_camel(name) for name in shape.members)
        yield failure(path, value, f"Exactly one of [{members}] must be set", sensitive=True)


@cache
def java_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names as a Java HashMap with their camelCase spellings as keys lists them.

    Recorded of CreateMicrovmImage (baseImageArn, codeArtifact, buildRoleArn), and public messages
    of other services agree: SNS AddPermission, DynamoDB CreateTable, SWF, Cognito.
    """
    buckets = 16
    while len(names) > buckets * 3 // 4:
        buckets *= 2
    return tuple(sorted(names, key=lambda name: _java_hash(_camel(name)) % buckets))


def _java_hash(text: str) -> int:
    """String.hashCode, spread as HashMap does it."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value ^ (value >> 16)


def _value(shape: Shape, value: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - by shape
    match shape:
        case StructureShape():
            yield from _structure(shape, value, path)
        case ListShape():
            yield from _sized(shape, value, path)
            yield from _list(shape, value, path)
        case MapShape():
            yield from _sized(shape, value, path)
            yield from _map(shape, value, path)
        case _:
            for constraint in _broken(shape, value):
                yield failure(path, value, constraint, sensitive=_sensitive(shape))


def _sized(shape: Shape, value: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - by shape
    for constraint in _broken_length(shape, len(value)):
        yield failure(path, value, constraint, sensitive=_sensitive(shape))


def _list(shape: ListShape, items: list[Any], path: str) -> Iterator[str]:
    if shape.member.type_name in _SCALARS:
        if any(item is None or any(_broken(shape.member, item)) for item in items):
            yield _whole(path, items, "Member must satisfy constraint", shape.member)
        return
    for number, item in enumerate(items, 1):
        below = f"{path}.{number}.member"
        if item is None:
            yield failure(below, None, _NOT_NULL)
        else:
            yield from _value(shape.member, item, below)


def _map(shape: MapShape, entries: Mapping[str, Any], path: str) -> Iterator[str]:
    secret = _sensitive(shape)
    if any(any(_broken(shape.key, key)) for key in entries):
        yield _whole(path, entries, "Map keys must satisfy constraint", shape.key, secret=secret)
    if shape.value.type_name in _SCALARS:
        values = entries.values()
        if any(item is None or any(_broken(shape.value, item)) for item in values):
            yield _whole(
                path, entries, "Map value must satisfy constraint", shape.value, secret=secret
            )
        return
    for key, item in entries.items():
        below = f"{path}.{key}.member"
        if item is None:
            yield failure(below, None, _NOT_NULL)
        else:
            yield from _value(shape.value, item, below)


def _whole(path: str, value: object, words: str, member: Shape, *, secret: bool = False) -> str:
    constraints = ", ".join([*_constraints(member), _NOT_NULL])
    hidden = secret or _sensitive(member)
    return failure(path, value, f"{words}: [{constraints}]", sensitive=hidden)


def _broken(shape: Shape, value: Any) -> Iterator[str]:  # noqa: ANN401 - by shape
    """Constraints of a plain value that it breaks."""
    match value:
        case str():
            yield from _broken_length(shape, len(value))
            pattern = shape.metadata.get("pattern")
            if pattern is not None and not compile_pattern(pattern).fullmatch(value):
                yield _pattern_text(pattern)
            if isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
                yield _enum_text(shape)
        case bool():
            return
        case int() | float():
            least, most = shape.metadata.get("min"), shape.metadata.get("max")
            if most is not None and value > most:
                yield f"Member must have value less than or equal to {most}"
            if least is not None and value < least:
                yield f"Member must have value greater than or equal to {least}"


def _broken_length(shape: Shape, length: int) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if most is not None and length > most:
        yield f"Member must have length less than or equal to {most}"
    if least is not None and length < least:
        yield f"Member must have length greater than or equal to {least}"


def _constraints(shape: Shape) -> Iterator[str]:
    """All constraints of a plain value, in the order that AWS lists them."""
    noun = "length" if shape.type_name == "string" else "value"
    if "max" in shape.metadata:
        yield f"Member must have {noun} less than or equal to {shape.metadata['max']}"
    if "min" in shape.metadata:
        yield f"Member must have {noun} greater than or equal to {shape.metadata['min']}"
    if "pattern" in shape.metadata:
        yield _pattern_text(shape.metadata["pattern"])
    if isinstance(shape, StringShape) and shape.enum:
        yield _enum_text(shape)


def _pattern_text(pattern: str) -> str:
    return f"Member must satisfy regular expression pattern: {pattern}"


def _enum_text(shape: StringShape) -> str:
    return f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"


@cache
def compile_pattern(pattern: str) -> regex.Pattern[str]:
    r"""Compile a pattern of the model.

    Java's ``\d``, ``\s`` and ``\w`` are ASCII, Python's not; its ``.`` takes no line end at all.
    """
    out: list[str] = []
    inside = False
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            out.append(_java_escape(next(characters, ""), inside=inside))
            continue
        if character in "[]":
            inside = character == "["
        out.append(_NO_LINE_END if character == "." and not inside else character)
    return regex.compile("".join(out))


def _java_escape(letter: str, *, inside: bool) -> str:
    ranges = {"d": "0-9", "s": " \\t\\n\\x0b\\f\\r", "w": "a-zA-Z_0-9"}.get(letter)
    if ranges is None:
        return f"\\{letter}"
    return ranges if inside else f"[{ranges}]"


def _sensitive(shape: Shape) -> bool:
    match shape:
        case ListShape():
            return _sensitive(shape.member)
        case MapShape():
            return _sensitive(shape.key) or _sensitive(shape.value)
        case StructureShape():
            return any(_sensitive(member) for member in shape.members.values())
        case _:
            return bool(shape.metadata.get("sensitive"))


def _echo(value: object) -> str:
    if value is None:
        return "null"
    text = _java(value)
    return f"'{text if len(text) <= _ECHO else text[:_ECHO] + '...'}'"


def _java(value: object) -> str:
    """A value as Java's toString prints it."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(_java(item) for item in value)}]"
        case Mapping():
            return f"{{{', '.join(f'{k}={_java(v)}' for k, v in value.items())}}}"
        case None:
            return "null"
        case _:
            return str(value)


def _join(path: str, name: str) -> str:
    return f"{path}.{_camel(name)}" if path else _camel(name)


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]
