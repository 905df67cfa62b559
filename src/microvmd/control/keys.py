"""Asks for a KMS key before a decision, so that a refusal is the answer of the call.

Only a decision that needs a key waits for KMS: it is tried once, says what it needs, and is tried
again when KMS has agreed. No transaction is open meanwhile.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from microvmd.messages.keys import KeyProblem, KeyRefused
from microvmd.messages.node import MicrovmSpec
from microvmd.model.errors import AccessDenied, ApiError, InternalError, ValidationError

Check = Callable[[MicrovmSpec], Awaitable[None]]
"""Ask for what a start or resume needs. Raises KeyRefused."""

T = TypeVar("T")

_ERRORS: dict[KeyProblem, type[ApiError]] = {
    KeyProblem.DENIED: AccessDenied,
    KeyProblem.UNUSABLE: ValidationError,
    KeyProblem.UNREACHABLE: InternalError,
}


class _NeedsKey(Exception):
    def __init__(self, spec: MicrovmSpec) -> None:
        super().__init__(f"{spec.microvm_id} needs {spec.kms_key}")
        self.spec = spec


class KeyGate:
    """Without ``check`` every key is let pass; a start that cannot open it fails then."""

    def __init__(self, check: Check | None = None) -> None:
        self._check = check

    def demand(self, spec: MicrovmSpec | None, *, proven: bool) -> None:
        """Within a decision and before it changes anything."""
        if self._check is not None and spec is not None and spec.kms_key and not proven:
            raise _NeedsKey(spec)

    async def granted(self, decide: Callable[[bool], Awaitable[T]]) -> T:
        """The decision, told whether its key is proven. Raises what the caller may read."""
        try:
            return await decide(False)
        except _NeedsKey as needed:
            spec = needed.spec
        assert self._check is not None
        try:
            await self._check(spec)
        except KeyRefused as refused:
            raise _ERRORS[refused.problem](str(refused)) from refused
        return await decide(True)
