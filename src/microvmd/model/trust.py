"""Trust policies of roles: who may assume one. A principal that is not understood is nobody."""

from typing import Any

from microvmd.model.caller import Caller
from microvmd.model.errors import ValidationError
from microvmd.model.pattern import Context
from microvmd.model.policy import Asked, Effect, read_statements

_ACTION = "sts:AssumeRole"


def trusts(document: str, caller: Caller, role_arn: str, context: Context) -> bool:
    """Whether the policy names the caller, or its account, and denies neither."""
    try:
        statements = read_statements(document, principals=True)
    except ValidationError:
        return False
    asked = Asked(_ACTION, role_arn, context)
    trusted = False
    for statement, element in statements:
        named = "NotPrincipal" not in element and _names(element.get("Principal"), caller)
        if statement.effect is Effect.DENY and ("NotPrincipal" in element or named):
            if statement.applies(asked):
                return False
        elif named and statement.applies(asked):
            trusted = True
    return trusted


def _names(principal: Any, caller: Caller) -> bool:  # noqa: ANN401 - JSON as it came
    if isinstance(principal, dict):
        principal = principal.get("AWS", [])
        texts = principal if isinstance(principal, list) else [principal]
    else:
        texts = [principal] if principal == "*" else []
    own = {
        "*",
        caller.account,
        f"arn:aws:iam::{caller.account}:root",
        caller.arn,
        caller.principal_arn,
    }
    return any(isinstance(text, str) and text in own for text in texts)
