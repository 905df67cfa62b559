"""A failure tells both what is wrong and what to do, also where only its text is kept."""

import pytest

from microvmd.service.failure import Failure


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (Failure("no root", "start it as root"), "no root; start it as root"),
        (Failure("no root"), "no root"),
    ],
)
def test_text(failure: Failure, text: str) -> None:
    assert str(failure) == text
