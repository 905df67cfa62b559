"""Requests and answers as text that two runs write alike: the form of the golden files.

Ids, instants and tokens become names in ``<...>``. An id keeps its name wherever it appears again,
also inside an ARN or a path, so that what belongs together is compared too. Everything else is
literal: members, nulls, numbers, texts. The order of members is not compared.
"""

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.clients.raw import Answer

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?P<fraction>\.\d+)?Z")
_EPOCH = re.compile(r"\d{10}(?P<fraction>\.\d{1,3})?")
_BUCKET = re.compile(r"(?P<state>[A-Z_]+)#\d{8}")
_CURSOR = re.compile(r"[A-Za-z0-9_=-]{20,}")
_TOKEN = re.compile(r"(?P<header>[A-Za-z0-9_-]+)(\.[A-Za-z0-9_-]*){4}")
MADE_UP = "00000000-"
"""How ids begin that the test made up: they are literal."""
_NEAR_SECONDS = 600
# Each connection has its own; the rest of the headers is part of the contract.
_TRANSPORT = frozenset({"date", "connection", "content-length", "transfer-encoding"})


class Number(str):
    """A JSON number as it was spelled."""

    __slots__ = ()


@dataclass
class Names:
    """The names that stand for what differs from run to run."""

    _given: dict[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def name(self, kind: str, value: str) -> str:
        """The name of a value, a new one when it is seen first: ``<kind 1>``, ``<kind 2>``."""
        if value not in self._given:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._given[value] = f"<{kind} {self._counts[kind]}>"
        return self._given[value]

    def in_text(self, text: str, kind: str = "id") -> str:
        """Text with every id in it named; one that is not known yet is named after ``kind``."""
        return _UUID.sub(lambda found: self._id(kind, found[0]), text)

    def _id(self, kind: str, value: str) -> str:
        return value if value.startswith(MADE_UP) else self.name(kind, value)

    def in_path(self, path: str) -> str:
        for value, name in self._given.items():
            path = path.replace(quote(value, safe=""), name)
        return self.in_text(path)

    def document(self, value: Any, member: str = "") -> Any:
        """A parsed answer with all its values named."""
        match value:
            case dict():
                return {key: self.document(value[key], key) for key in sorted(value)}
            case list():
                return [self.document(item, member) for item in value]
            case Number():
                return _instant(value)
            case str():
                return self._string(value, member)
        return value

    def _string(self, value: str, member: str) -> str:
        if member in ("nextToken", "NextMarker") and _CURSOR.fullmatch(value):
            return self.name(member, value)
        if member == "X-aws-proxy-auth" and (token := _TOKEN.fullmatch(value)):
            header = json.loads(base64.urlsafe_b64decode(token["header"] + "=="))
            return f"<token, {header['alg']}, {header['enc']}>"
        if iso := _ISO.fullmatch(value):
            return f"<iso 8601{_digits(iso)}>"
        if bucket := _BUCKET.fullmatch(value):
            return f"{bucket['state']}#<yymmddhh>"
        return self.in_text(value, member)


def exchange_text(
    names: Names, note: str, method: str, path: str, body: bytes, answer: Answer
) -> str:
    """One exchange as a golden file holds it."""
    headers = {
        name: names.in_text(value, "x-amzn-requestid") if name != "x-amzn-requestid" else "<uuid>"
        for name, value in sorted(answer.headers.items())
        if name not in _TRANSPORT
    }
    if "x-amzn-requestid" in answer.headers:
        assert _UUID.fullmatch(answer.headers["x-amzn-requestid"])
    # The answer first: an id gets its name where the service gives it.
    came = _body_text(names, answer.content)
    sent = _body_text(names, body)
    lines = [
        f"# {note}",
        f"{method} {names.in_path(path)}",
        *([] if not sent else ["", sent]),
        "",
        f"HTTP {answer.status}",
        *(f"{name}: {value}" for name, value in headers.items()),
        *([] if not came else ["", came]),
    ]
    return "\n".join(lines) + "\n"


def _body_text(names: Names, body: bytes) -> str:
    if not body:
        return ""
    try:
        document = json.loads(
            body, parse_float=Number, parse_int=_whole, object_pairs_hook=_without_doubles
        )
    except ValueError:
        return body.decode()
    return json.dumps(names.document(document), indent=2, ensure_ascii=False)


def _whole(digits: str) -> int | Number:
    """A time may by chance have no fraction; any other whole number stays a number."""
    return Number(digits) if abs(int(digits) - time.time()) < _NEAR_SECONDS else int(digits)


def _without_doubles(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), f"a member twice: {[name for name, _ in pairs]}"
    return found


def _instant(number: Number) -> str:
    epoch = _EPOCH.fullmatch(number)
    if epoch and abs(float(number) - time.time()) < _NEAR_SECONDS:
        return "<epoch seconds, up to 3 decimals>"
    return f"<number {number}>"


def _digits(found: re.Match[str]) -> str:
    return f", {len(found['fraction'] or '.') - 1} decimals"
