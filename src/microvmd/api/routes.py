"""Which operation a request means, found on the raw path.

Image identifiers are ARNs. Clients send them percent-encoded or with raw colons, and an encoded
slash inside one must not split a segment: so split first, decode each label after.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from microvmd.api.errors import UnknownOperation, UnparsableQuery
from microvmd.api.operations import Operation


@dataclass(frozen=True, slots=True)
class Match:
    """The operation and its decoded URI labels."""

    operation: Operation
    labels: Mapping[str, str]


class Router:
    """Routes by method and path segments; literal segments win over labels."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._routes: dict[tuple[str, int], list[Operation]] = {}
        for operation in operations:
            key = (operation.method, len(operation.path))
            self._routes.setdefault(key, []).append(operation)
        for routes in self._routes.values():
            routes.sort(key=lambda operation: [_is_label(s) for s in operation.path])

    def match(self, method: str, raw_path: str) -> Match:
        """Find the operation for a path that is still percent-encoded."""
        segments = raw_path.removeprefix("/").split("/")
        for operation in self._routes.get((method, len(segments)), ()):
            pairs = list(zip(operation.path, segments, strict=True))
            if all(_is_label(want) or want == have for want, have in pairs):
                labels = {w[1:-1]: decode(have) for w, have in pairs if _is_label(w)}
                return Match(operation, labels)
        raise UnknownOperation(f"No operation for {method} with this path")


def decode(text: str) -> str:
    """Undo percent-encoding strictly: a broken escape or bad UTF-8 is the caller's error."""
    if not text.isascii() or not all(_is_hex(part[:2]) for part in text.split("%")[1:]):
        raise UnparsableQuery("a broken percent escape")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise UnparsableQuery("not UTF-8") from error


def _is_label(segment: str) -> bool:
    return segment.startswith("{")


def _is_hex(pair: str) -> bool:
    return len(pair) == 2 and all(c in "0123456789abcdefABCDEF" for c in pair)
