"""One cause comes out of nested groups."""

import pytest

from microvmd.vmm.causes import cause_of, ungrouped


def test_first_leaf() -> None:
    inner = ExceptionGroup("inner", [KeyError("a"), ValueError("b")])
    assert isinstance(cause_of(ExceptionGroup("outer", [inner, OSError()])), KeyError)


def test_body_ends_with_the_cause_and_keeps_the_group_behind_it() -> None:
    with pytest.raises(OSError, match="full") as raised, ungrouped():
        raise ExceptionGroup("tasks", [OSError("full")])
    assert isinstance(raised.value.__cause__, ExceptionGroup)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), ungrouped():
        raise KeyError
