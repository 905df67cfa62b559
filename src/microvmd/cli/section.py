"""What every table of the settings file is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the configuration file; a name that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
