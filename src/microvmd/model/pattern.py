"""Text of IAM policies with wildcards (``*``, ``?``) and variables (``${aws:username}``).

A pattern is compiled into an expression without backtracking into what a ``*`` has passed, so that
no policy of a stranger costs more than the length of the text times its wildcards.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

Context = Mapping[str, tuple[str, ...]]
"""Condition keys in lower case; a key that the request does not have is absent."""

ARN_SEGMENTS = 6
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_DEFAULT = re.compile(r"\s*([^,\s]+)\s*(?:,\s*'([^']*)'\s*)?")
_LITERALS = frozenset("*?$")


class Wildcard(Enum):
    """ANY stands for any text, ONE for one character."""

    ANY = "*"
    ONE = "?"


@dataclass(frozen=True, slots=True)
class Variable:
    """A condition key whose one value goes here; ``default`` where the request has none."""

    key: str
    default: str | None = None


Piece = str | Wildcard | Variable
_Resolved = tuple[str | Wildcard, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed text; literal pieces are never empty."""

    pieces: tuple[Piece, ...]

    @classmethod
    def parse(cls, text: str, *, variables: bool = True, wildcards: bool = True) -> "Pattern":
        """``variables`` as in policies of version 2012-10-17. ValueError says what is bad."""
        pieces: list[Piece] = []
        position = 0
        for found in _VARIABLE.finditer(text) if variables else ():
            pieces.extend(_plain(text[position : found.start()], wildcards=wildcards))
            pieces.append(_variable(found[1]))
            position = found.end()
        pieces.extend(_plain(text[position:], wildcards=wildcards))
        return cls(tuple(pieces))

    def matches(self, value: str, context: Context, *, ignore_case: bool = False) -> bool:
        """False too where a variable has no value: such a pattern stands for nothing."""
        resolved = self._resolved(context)
        if resolved is None:
            return False
        return _expression(resolved, ignore_case=ignore_case).fullmatch(value) is not None

    def matches_arn(self, value: str, context: Context) -> bool:
        """Each of the six parts of an ARN for itself: a wildcard does not reach beyond a colon but
        in the last. A lone ``*`` matches whatever there is."""
        if self.is_any:
            return True
        wanted, given = self.arn_parts(), value.split(":", ARN_SEGMENTS - 1)
        return len(wanted) == len(given) == ARN_SEGMENTS and all(
            want.matches(have, context) for want, have in zip(wanted, given, strict=True)
        )

    def resolves(self, context: Context) -> bool:
        """False where a variable has no value, so that nobody can tell what is meant."""
        return self._resolved(context) is not None

    @property
    def is_any(self) -> bool:
        """A lone ``*``."""
        return self.pieces == (Wildcard.ANY,)

    def arn_parts(self) -> list["Pattern"]:
        """Up to six; colons inside variables separate nothing."""
        parts: list[list[Piece]] = [[]]
        for piece in self.pieces:
            if not isinstance(piece, str):
                parts[-1].append(piece)
                continue
            first, *others = piece.split(":", ARN_SEGMENTS - len(parts))
            parts[-1].extend(filter(None, [first]))
            parts.extend([[other] if other else [] for other in others])
        return [Pattern(tuple(part)) for part in parts]

    def _resolved(self, context: Context) -> _Resolved | None:
        resolved: list[str | Wildcard] = []
        for piece in self.pieces:
            if not isinstance(piece, Variable):
                resolved.append(piece)
                continue
            values = context.get(piece.key, ())
            value = values[0] if len(values) == 1 else piece.default
            if value is None:
                return None
            resolved.append(value)
        return tuple(resolved)


def _plain(text: str, *, wildcards: bool) -> Iterator[Piece]:
    if not wildcards:
        yield from filter(None, [text])
        return
    for part in re.split(r"([*?])", text):
        if part in ("*", "?"):
            yield Wildcard(part)
        elif part:
            yield part


def _variable(content: str) -> Piece:
    if content in _LITERALS:
        return content
    found = _DEFAULT.fullmatch(content)
    if found is None:
        raise ValueError(f"'${{{content}}}' is not a policy variable")
    return Variable(found[1].lower(), found[2])


@lru_cache(maxsize=4096)
def _expression(pieces: _Resolved, *, ignore_case: bool) -> re.Pattern[str]:
    """``a*b*c`` as ``a(?>.*?b).*c``: the text after a wildcard is taken at its first place."""
    groups = list(_between_any(pieces))
    text = groups[0]
    if len(groups) > 1:
        text += "".join(f"(?>.*?{group})" for group in groups[1:-1]) + f".*{groups[-1]}"
    return re.compile(text, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _between_any(pieces: Iterable[str | Wildcard]) -> Iterator[str]:
    group = ""
    for piece in pieces:
        if piece is Wildcard.ANY:
            yield group
            group = ""
        else:
            group += "." if piece is Wildcard.ONE else re.escape(str(piece))
    yield group
