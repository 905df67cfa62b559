"""The form that an image or a version is made with: from a version to fields, and to a request.

Pure. Fields are texts, as a browser sends them; what cannot be a request says at which step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Self

from microvmd.model.connector import Egress, managed_arn
from microvmd.model.errors import ValidationError
from microvmd.model.hooks import DEFAULT_PORT, DEFAULT_TIMEOUTS, IMAGE_HOOKS, HookName

STEPS = ("source", "machine", "hooks", "environment", "logging", "review")
DEFAULT_BUILD_ROLE = "microvmd-build"
ROWS = 100
_WORDS = {
    "source": ("'name'", "codeartifact", "s3://", "clienttoken", "already exists", "archive"),
    "machine": ("memory", "baseimage", "buildrole", "resources", "egress", "capabilit", "kms"),
    "hooks": ("hook",),
    "environment": ("environment", "tags"),
    "logging": ("logging", "loggroup", "logstream"),
}
TEXTS = (
    *("name", "description", "uploaded", "upload_name", "s3_uri", "example", "base"),
    *("base_version", "role", "memory", "network", "kms_key", "hook_port", "log_group"),
    *("log_stream", "token"),
)
Fields = Mapping[str, Sequence[str]]


class Unusable(ValidationError):
    """A field that no request can be made of."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass(slots=True)
class ImageForm:
    """What the form shows. Rows of names and values keep their order."""

    name: str = ""
    description: str = ""
    kind: str = "upload"
    """Of the source: ``upload``, ``s3`` or ``example``."""
    uploaded: str = ""
    """The URI of what was uploaded."""
    upload_name: str = ""
    s3_uri: str = ""
    example: str = ""
    base: str = ""
    base_version: str = ""
    role: str = ""
    memory: str = ""
    network: str = ""
    """An ARN of a connector; empty is the default."""
    capabilities: bool = False
    kms_key: str = ""
    hook_port: str = str(DEFAULT_PORT)
    hooks: dict[str, bool] = field(default_factory=dict)
    timeouts: dict[str, str] = field(default_factory=dict)
    environment: list[tuple[str, str]] = field(default_factory=list)
    tags: list[tuple[str, str]] = field(default_factory=list)
    logging: str = "default"
    log_group: str = ""
    log_stream: str = ""
    token: str = ""
    """Repeats of one form make one image."""

    @classmethod
    def fresh(cls, account: str, base: str, token: str) -> Self:
        """For a new image."""
        return cls(
            base=base,
            role=f"arn:aws:iam::{account}:role/{DEFAULT_BUILD_ROLE}",
            memory="",
            timeouts={name.value: str(DEFAULT_TIMEOUTS[name]) for name in HookName},
            token=token,
        )

    @classmethod
    def of_version(cls, name: str, version: Mapping[str, Any], token: str) -> Self:
        """For another version like this one (GetMicrovmImageVersion's answer)."""
        made = cls.fresh("", str(version["baseImageArn"]), token)
        made.name = name
        made.kind, made.s3_uri = "s3", str(version["codeArtifact"]["uri"])
        made.description = version.get("description") or ""
        made.role = str(version["buildRoleArn"])
        made.base_version = version.get("baseImageVersion") or ""
        resources = version.get("resources") or [{}]
        made.memory = str(resources[0].get("minimumMemoryInMiB") or "")
        made.network = next(iter(version.get("egressNetworkConnectors") or ()), "")
        made.capabilities = "ALL" in (version.get("additionalOsCapabilities") or ())
        made.kms_key = version.get("kmsKeyIdentifier") or ""
        made.environment = list((version.get("environmentVariables") or {}).items())
        made._take_hooks(version.get("hooks") or {})
        made._take_logging(version.get("logging"))
        return made

    @classmethod
    def of_fields(cls, fields: Fields) -> Self:
        """What was sent; nothing of it is lost when it has to be shown again."""

        def last(name: str) -> str:
            return (fields.get(name) or [""])[-1].strip()

        made = cls()
        for name in TEXTS:
            setattr(made, name, last(name))
        made.kind = last("kind") or "upload"
        made.logging = last("logging") or "default"
        made.capabilities = bool(last("capabilities"))
        made.hooks = {name.value: bool(last(f"hook.{name.value}")) for name in HookName}
        made.timeouts = {name.value: last(f"timeout.{name.value}") for name in HookName}
        made.environment = list(_pairs(fields, "env"))
        made.tags = list(_pairs(fields, "tag"))
        return made

    def request(self, uri: str) -> dict[str, Any]:
        """Members of CreateMicrovmImage, but for the name and the tags. Raises Unusable."""
        found: dict[str, Any] = {
            "baseImageArn": self.base,
            "baseImageVersion": self.base_version or None,
            "buildRoleArn": self.role,
            "codeArtifact": {"uri": uri},
            "description": self.description or None,
            "clientToken": self.token or None,
            "kmsKeyIdentifier": self.kms_key or None,
            "egressNetworkConnectors": [self.network] if self.network else None,
            "additionalOsCapabilities": ["ALL"] if self.capabilities else None,
            "environmentVariables": _map(self.environment, "environment") or None,
            "hooks": self._hooks(),
            "logging": self._logging(),
        }
        if self.memory:
            memory = _number(self.memory, "machine", "The memory size")
            found["resources"] = [{"minimumMemoryInMiB": memory}]
        return {member: value for member, value in found.items() if value is not None}

    def tag_map(self) -> dict[str, str]:
        return _map(self.tags, "environment")

    def source(self) -> str:
        """The URI that the form names; empty for an example, which has to be uploaded first."""
        if self.kind == "example":
            if not self.example:
                raise Unusable("source", "Choose an example.")
            return ""
        uri = self.uploaded if self.kind == "upload" else self.s3_uri
        if not uri:
            missing = "Choose a folder or a zip." if self.kind == "upload" else "Give an s3:// URI."
            raise Unusable("source", missing)
        return uri

    def _hooks(self) -> dict[str, Any] | None:
        if not any(self.hooks.values()):
            return None
        found: dict[str, Any] = {"port": _number(self.hook_port, "hooks", "The port of hooks")}
        for name in HookName:
            if self.hooks.get(name.value):
                group = "microvmImageHooks" if name in IMAGE_HOOKS else "microvmHooks"
                members = found.setdefault(group, {})
                members[name.value] = "ENABLED"
                if given := self.timeouts.get(name.value):
                    seconds = _number(given, "hooks", f"The time limit of /{name.value}")
                    members[f"{name.value}TimeoutInSeconds"] = seconds
        return found

    def _logging(self) -> dict[str, Any] | None:
        if self.logging == "disabled":
            return {"disabled": {}}
        if self.logging == "default":
            return None
        members = {"logGroup": self.log_group, "logStream": self.log_stream}
        return {"cloudWatch": {name: value for name, value in members.items() if value}}

    def _take_hooks(self, hooks: Mapping[str, Any]) -> None:
        self.hook_port = str(hooks.get("port") or DEFAULT_PORT)
        members = {**hooks.get("microvmImageHooks", {}), **hooks.get("microvmHooks", {})}
        for name in HookName:
            self.hooks[name.value] = members.get(name.value) == "ENABLED"
            if (seconds := members.get(f"{name.value}TimeoutInSeconds")) is not None:
                self.timeouts[name.value] = str(seconds)

    def _take_logging(self, logging: Mapping[str, Any] | None) -> None:
        if not logging:
            return
        watch = logging.get("cloudWatch") or {}
        self.logging = "disabled" if "disabled" in logging else "own"
        self.log_group, self.log_stream = watch.get("logGroup", ""), watch.get("logStream", "")


def step_of(message: str) -> str:
    """Where to mend what the API refused, as far as its words tell."""
    words = message.lower()
    return next((step for step, known in _WORDS.items() if any(w in words for w in known)), "")


def networks(region: str) -> list[tuple[str, str]]:
    """The managed connectors, by ARN."""
    return [(managed_arn(name, region), name.value) for name in Egress]


def _pairs(fields: Fields, prefix: str) -> Iterator[tuple[str, str]]:
    names, values = fields.get(f"{prefix}_name", ()), fields.get(f"{prefix}_value", ())
    for name, value in zip_longest(names, values, fillvalue=""):
        if name.strip() or value:
            yield name.strip(), value


def check_rows(fields: Fields) -> None:
    """Raises Unusable where names and values do not belong together, or are too many."""
    for prefix, noun in (("env", "variable"), ("tag", "tag")):
        names, values = fields.get(f"{prefix}_name", ()), fields.get(f"{prefix}_value", ())
        if len(names) != len(values) or len(names) > ROWS:
            raise Unusable("environment", f"At most {ROWS} rows, each with a {noun} and its value.")


def _map(rows: Sequence[tuple[str, str]], step: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in rows:
        if not name:
            raise Unusable(step, f"The value {value[:40]!r} has no name.")
        if name in found:
            raise Unusable(step, f"{name} is there twice.")
        found[name] = value
    return found


def _number(text: str, step: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Unusable(step, f"{what} must be a whole number.")
    return int(text)
