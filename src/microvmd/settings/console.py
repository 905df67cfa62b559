"""The table ``[console]``: the web pages."""

from pydantic import Field

from microvmd.settings.section import Section


class ConsoleSettings(Section):
    """Pages at /console on the API's port."""

    enabled: bool = Field(default=True, description="serve the web console at /console")
    idle_minutes: float = Field(
        default=120, gt=0, description="how long a login lasts while nobody uses it"
    )
    session_hours: float = Field(default=12, gt=0, description="how long a login lasts at most")
    upload_mib: int = Field(
        default=256, ge=1, le=1024, description="largest code artifact that a page uploads"
    )
