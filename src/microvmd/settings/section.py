"""What every table of the configuration file is made of."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, is {path}")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Section(BaseModel):
    """A table of the configuration file; a name that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
