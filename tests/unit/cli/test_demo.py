"""A step prints what it did, its time and what it found; one that fails claims nothing."""

import pytest

from microvmd.cli.demo import default_example, step
from microvmd.service.failure import Failure


def test_step_line(capsys: pytest.CaptureFixture[str]) -> None:
    with step("count [to] 3") as said:
        said("counter is 3")
    line = capsys.readouterr().out
    assert "count [to] 3" in line
    assert "counter is 3" in line
    assert " ms" in line


def test_a_failed_step_prints_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Failure), step("suspend"):
        raise Failure("the VMM is still there")
    assert "suspend" not in capsys.readouterr().out


def test_the_example_is_in_the_checkout() -> None:
    assert (default_example() / "Dockerfile").is_file()
