"""Bounds of what can be set of the console."""

import pytest
from pydantic import ValidationError

from microvmd.settings.console import ConsoleSettings


def test_a_login_lasts_for_some_time() -> None:
    assert ConsoleSettings(idle_minutes=0.5).session_hours == 12
    for wrong in ({"idle_minutes": 0}, {"session_hours": -1}, {"nothing": 1}):
        with pytest.raises(ValidationError):
            ConsoleSettings.model_validate(wrong)
