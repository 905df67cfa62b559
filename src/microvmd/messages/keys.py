"""Why a key of KMS was not to be had: what the node tells, and the API answers."""

from enum import StrEnum


class KeyProblem(StrEnum):
    DENIED = "denied"
    """KMS, or STS on the way to it, says that the caller may not."""
    UNUSABLE = "unusable"
    """There is no such key, it is disabled or about to be deleted, or it cannot do this."""
    UNREACHABLE = "unreachable"
    """KMS gave no answer, or not now: try again."""


class KeyRefused(Exception):
    """A data key could not be made or opened. The text names the key."""

    def __init__(self, problem: KeyProblem, text: str) -> None:
        super().__init__(text)
        self.problem = problem
