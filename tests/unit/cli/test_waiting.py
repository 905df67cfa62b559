"""Polling: it ends at the first answer, at the limit, or at a state without return."""

import pytest

from microvmd.cli.waiting import poll
from microvmd.service.failure import Failure


def test_first_answer_ends_it() -> None:
    answers = iter([None, None, "here"])
    assert poll(lambda: next(answers), limit=10) == "here"


def test_falsy_answers_count() -> None:
    assert poll(lambda: False, limit=0) is False


def test_limit() -> None:
    asked = []
    assert poll(lambda: asked.append(1), limit=0.1) is None
    assert len(asked) > 1


def test_errors_of_the_question_pass() -> None:
    def ask() -> None:
        raise Failure("gone")

    with pytest.raises(Failure, match="gone"):
        poll(ask, limit=1)
