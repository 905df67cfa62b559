"""Why a process of the service cannot start or a command cannot go on, for who can mend it."""


class Failure(Exception):
    """Something the user can mend. ``hint`` says how."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """For a log: a terminal gets `message` and `hint` as lines of their own."""
        return f"{self.message}; {self.hint}" if self.hint else self.message
