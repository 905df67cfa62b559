"""Every setting by its name, for the commands and pages that list them."""

from pydantic.fields import FieldInfo

from microvmd.settings.section import Section
from microvmd.settings.settings import Settings


def setting_names() -> dict[str, tuple[str, str]]:
    """``{"build.isolation": (default, meaning)}`` for every setting, in order."""
    rows: dict[str, tuple[str, str]] = {}
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            for inner, inner_field in kind.model_fields.items():
                rows[f"{name}.{inner}"] = (_default(inner_field), inner_field.description or "")
        else:
            rows[name] = (_default(field), field.description or "")
    return rows


def _default(field: FieldInfo) -> str:
    """As a reader would write it; nothing where it is found out at start."""
    value = field.default
    if field.default_factory or value in (None, (), {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def variable(setting: str) -> str:
    """The environment variable of a setting: ``build.isolation`` -> MICROVMD_BUILD_ISOLATION."""
    return "MICROVMD_" + setting.replace(".", "_").upper()
