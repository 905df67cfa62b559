"""A table of the configuration file takes only what it knows."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from microvmd.settings.section import AbsolutePath, Section


class Example(Section):
    place: AbsolutePath = Path("/")


def test_unknown_names_and_relative_paths_are_refused() -> None:
    assert Example(place=Path("/a")).place == Path("/a")
    with pytest.raises(ValidationError, match="must be an absolute path, is a"):
        Example(place=Path("a"))
    with pytest.raises(ValidationError, match="Extra inputs"):
        Example.model_validate({"plaze": "/a"})
