"""IAM policies of callers: read strictly, evaluated as AWS documents it.

An explicit ``Deny`` wins; else one ``Allow`` is needed from the identity's own policies and, where
a session was limited by further ones, from each of those too. Nothing that is not understood is
accepted: a policy with an unknown element or operator is refused when it is attached, so that
evaluation never has to guess. Why this is no library: docs/decisions/0004-own-policy-evaluator.md.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from microvmd.model.conditions import Condition, parse_conditions
from microvmd.model.errors import ValidationError
from microvmd.model.pattern import ARN_SEGMENTS, Context, Pattern

LONGEST_DOCUMENT = 6144
"""Characters without white space, as AWS counts them for a managed policy."""
LONGEST_TEXT = 64 * 1024

_ELEMENTS = frozenset({"Version", "Id", "Statement"})
_STATEMENT_ELEMENTS = frozenset(
    {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)
_PRINCIPAL_ELEMENTS = frozenset({"Principal", "NotPrincipal"})
_VARIABLES_SINCE = "2012-10-17"
_VERSIONS = ("2008-10-17", _VARIABLES_SINCE)
_ACTION = re.compile(r"\*|[A-Za-z0-9.-]+:[A-Za-z0-9*?]+")


class MalformedPolicy(ValidationError):
    """The document is no policy; the message says where and why."""


class Effect(StrEnum):
    ALLOW = "Allow"
    DENY = "Deny"


class Verdict(StrEnum):
    """What policies say of a request: DENIED explicitly, ALLOWED, or neither."""

    ALLOWED = "allowed"
    NOT_ALLOWED = "not allowed"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Asked:
    """One action on one thing. ``resource`` is an ARN, ``*`` for actions that have no resource, or
    None where it cannot be told: then only a statement on ``*`` allows, and any may deny."""

    action: str
    resource: str | None
    context: Context


@dataclass(frozen=True, slots=True)
class Statement:
    """A rule. ``other_actions``: all but ``actions`` are meant (NotAction); resources alike."""

    effect: Effect
    actions: tuple[Pattern, ...]
    resources: tuple[Pattern, ...]
    conditions: tuple[Condition, ...] = ()
    other_actions: bool = False
    other_resources: bool = False

    def applies(self, asked: Asked) -> bool:
        return (
            self._names_action(asked)
            and self._names_resource(asked)
            and all(condition.holds(asked.context) for condition in self.conditions)
            and (self.effect is Effect.DENY or self._tells(asked.context))
        )

    @property
    def allows_everything(self) -> bool:
        return (
            self.effect is Effect.ALLOW
            and not (self.conditions or self.other_actions or self.other_resources)
            and any(pattern.is_any for pattern in self.actions)
            and any(pattern.is_any for pattern in self.resources)
        )

    def _tells(self, context: Context) -> bool:
        """False where what is excepted cannot be told: such a rule allows nothing."""
        excepted = self.resources if self.other_resources else ()
        return all(pattern.resolves(context) for pattern in excepted) and all(
            condition.tells(context) for condition in self.conditions
        )

    def _names_action(self, asked: Asked) -> bool:
        named = any(p.matches(asked.action, {}, ignore_case=True) for p in self.actions)
        return named is not self.other_actions

    def _names_resource(self, asked: Asked) -> bool:
        if asked.resource is None:
            named = any(pattern.is_any for pattern in self.resources)
            return self.effect is Effect.DENY or (named and not self.other_resources)
        # AWS lets a wildcard at the end of a part reach into the next ones. Here that takes away
        # and never gives.
        broad = (self.effect is Effect.DENY) is not self.other_resources
        named = any(
            p.matches_arn(asked.resource, asked.context)
            or (broad and p.matches(asked.resource, asked.context))
            for p in self.resources
        )
        return named is not self.other_resources


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed document."""

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Read an identity-based policy. Raise MalformedPolicy."""
        return cls(tuple(statement for statement, _ in read_statements(text)))


ADMINISTRATOR = (
    '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}'
)


def evaluate(policies: Iterable[Policy], asked: Asked) -> Verdict:
    """What policies that add up say of a request."""
    verdict = Verdict.NOT_ALLOWED
    for policy in policies:
        for statement in policy.statements:
            if statement.effect is Effect.ALLOW and verdict is Verdict.ALLOWED:
                continue
            if statement.applies(asked):
                if statement.effect is Effect.DENY:
                    return Verdict.DENIED
                verdict = Verdict.ALLOWED
    return verdict


def allow_everything(policies: Sequence[Policy]) -> bool:
    """True when nothing needs to be looked up to know that all is allowed."""
    statements = [statement for policy in policies for statement in policy.statements]
    return all(statement.effect is Effect.ALLOW for statement in statements) and any(
        statement.allows_everything for statement in statements
    )


def read_statements(
    text: str, *, principals: bool = False
) -> list[tuple[Statement, dict[str, Any]]]:
    """The statements of a document, each with its raw elements. Raise MalformedPolicy.

    ``principals``: a policy of a resource, whose statements name principals and no resource.
    """
    document = _document(text)
    version = document.get("Version", _VERSIONS[0])
    if version not in _VERSIONS:
        raise MalformedPolicy(f"Version must be one of {', '.join(_VERSIONS)}.")
    raw = document.get("Statement")
    statements = raw if isinstance(raw, list) else [raw]
    read = []
    for number, element in enumerate(statements, start=1):
        try:
            if not isinstance(element, dict):
                raise ValueError("is not an object")
            variables = version == _VARIABLES_SINCE
            read.append((_statement(element, variables=variables, principals=principals), element))
        except ValueError as error:
            raise MalformedPolicy(f"Statement {number}: {error}.") from error
    if not read and not principals:
        raise MalformedPolicy("The policy has no Statement.")
    return read


def _document(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_TEXT or len(re.sub(r"\s", "", text)) > LONGEST_DOCUMENT:
        raise MalformedPolicy(
            f"The policy is longer than {LONGEST_DOCUMENT} characters without white space."
        )
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedPolicy(f"The policy is not JSON: {reason}.") from error
    if not isinstance(document, dict):
        raise MalformedPolicy("The policy is not a JSON object.")
    unknown = sorted(document.keys() - _ELEMENTS)
    if unknown:
        raise MalformedPolicy(f"The policy has an element that does not exist: {unknown[0]}.")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _statement(element: dict[str, Any], *, variables: bool, principals: bool) -> Statement:
    unknown = sorted(element.keys() - _STATEMENT_ELEMENTS - _PRINCIPAL_ELEMENTS)
    if unknown:
        raise ValueError(f"{unknown[0]} is not an element of a statement")
    if not principals and element.keys() & _PRINCIPAL_ELEMENTS:
        raise ValueError("a policy of a user names no Principal")
    if element.get("Effect") not in ("Allow", "Deny"):
        raise ValueError("Effect must be Allow or Deny")
    actions, other_actions = _one_of(element, "Action")
    resources, other_resources = (["*"], False) if principals else _one_of(element, "Resource")
    conditions = element.get("Condition")
    return Statement(
        effect=Effect(element["Effect"]),
        actions=tuple(_action(text) for text in actions),
        resources=tuple(_resource(text, variables=variables) for text in resources),
        conditions=() if conditions is None else parse_conditions(conditions, variables=variables),
        other_actions=other_actions,
        other_resources=other_resources,
    )


def _one_of(element: dict[str, Any], name: str) -> tuple[list[str], bool]:
    """The texts of an element or of its opposite, and whether it was the opposite."""
    given = [candidate for candidate in (name, f"Not{name}") if candidate in element]
    if len(given) != 1:
        raise ValueError(f"exactly one of {name} and Not{name} is needed")
    value = element[given[0]]
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{given[0]} must be a text or a list of texts")
    return texts, given[0] != name


def _action(text: str) -> Pattern:
    if not _ACTION.fullmatch(text):
        raise ValueError(f"'{text}' is not an action as lambda:RunMicrovm")
    return Pattern.parse(text, variables=False)


def _resource(text: str, *, variables: bool) -> Pattern:
    """An ARN with fewer than six parts means all that begins with it, as on AWS."""
    pattern = Pattern.parse(text, variables=variables)
    if pattern.is_any:
        return pattern
    if not text.startswith("arn:"):
        raise ValueError(f"the resource '{text}' is neither an ARN nor *")
    missing = ARN_SEGMENTS - len(pattern.arn_parts())
    return Pattern.parse(text + ":*" * missing, variables=variables)
