"""Lifecycle hooks: names, order, time limits, and what each answer means.

A hook is ``POST /aws/lambda-microvms/runtime/v1/<name>`` to the application, made from inside the
guest. Image hooks (ready, validate) belong to the build, MicroVM hooks to the life of a MicroVM.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from microvmd.model.errors import ValidationError

APPLICATION_PORT = 8080
"""Where requests to an endpoint go that name no port."""
DEFAULT_PORT = 9000

READY_REQUIRED = (
    "The ready (/ready) MicroVM image hook must be enabled when any MicroVM lifecycle hook (run, "
    "resume, suspend, or terminate) is enabled. The ready hook signals when the application has "
    "finished initializing so the snapshot is taken in a ready state."
)


class HookName(StrEnum):
    """The last part of the hook's path."""

    READY = "ready"
    VALIDATE = "validate"
    RUN = "run"
    RESUME = "resume"
    SUSPEND = "suspend"
    TERMINATE = "terminate"

    @property
    def polled(self) -> bool:
        """ready and validate answer 503 for "not yet" and are asked again."""
        return self in (HookName.READY, HookName.VALIDATE)


# Seconds, for a hook that is enabled without a timeout (reference, section 4 of recorded answers).
DEFAULT_TIMEOUTS = {
    HookName.READY: 30,
    HookName.VALIDATE: 30,
    HookName.RUN: 1,
    HookName.RESUME: 1,
    HookName.SUSPEND: 1,
    HookName.TERMINATE: 1,
}
MICROVM_HOOKS = (HookName.RUN, HookName.RESUME, HookName.SUSPEND, HookName.TERMINATE)
IMAGE_HOOKS = (HookName.READY, HookName.VALIDATE)


@dataclass(frozen=True, slots=True)
class HookSetting:
    """What the caller said of one hook; None = not said, and then not echoed."""

    enabled: bool | None = None
    timeout_s: int | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one image version."""

    port: int | None = None
    settings: Mapping[HookName, HookSetting] = field(default_factory=dict)

    @classmethod
    def from_request(cls, request: Mapping[str, Any] | None) -> Self:
        """Read the API's ``hooks`` member, whose ranges the wire layer has checked."""
        request = request or {}
        settings = {}
        for group, names in (("microvmImageHooks", IMAGE_HOOKS), ("microvmHooks", MICROVM_HOOKS)):
            members = request.get(group) or {}
            for name in names:
                state = members.get(name.value)
                timeout = members.get(f"{name.value}TimeoutInSeconds")
                if state is not None or timeout is not None:
                    settings[name] = HookSetting(
                        None if state is None else state == "ENABLED", timeout
                    )
        hooks = cls(request.get("port"), settings)
        if any(hooks.enabled(name) for name in MICROVM_HOOKS) and not hooks.enabled(HookName.READY):
            raise ValidationError(READY_REQUIRED)
        return hooks

    def enabled(self, name: HookName) -> bool:
        setting = self.settings.get(name)
        return setting is not None and setting.enabled is True

    def timeout_s(self, name: HookName) -> int:
        setting = self.settings.get(name)
        said = setting.timeout_s if setting else None
        return DEFAULT_TIMEOUTS[name] if said is None else said

    @property
    def effective_port(self) -> int:
        return DEFAULT_PORT if self.port is None else self.port

    @property
    def any_enabled(self) -> bool:
        return any(self.enabled(name) for name in HookName)

    @property
    def closed_port(self) -> int | None:
        """Where nobody may connect from outside.

        Clients exist whose hooks and application share the default port: it stays open.
        """
        shared = self.effective_port == APPLICATION_PORT
        return self.effective_port if self.any_enabled and not shared else None

    def unreachable(self, exposed: Collection[int]) -> str | None:
        """What the build log says of a closed port that the Dockerfile EXPOSEs all the same."""
        if self.closed_port not in exposed:
            return None
        return (
            f"port {self.closed_port} answers hooks and is closed to the outside, although the "
            "Dockerfile EXPOSEs it: requests are to go to another port, or to "
            f"{APPLICATION_PORT}, which hooks may share"
        )


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What came of one call: a status, or why there was none ("refused", "timeout", "reset")."""

    status: int | None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == 200

    def again(self, name: HookName) -> bool:
        """A polled hook is asked again while the application is not listening or says 503."""
        return name.polled and (self.status == 503 or self.error in ("refused", "reset"))


def run_body(microvm_id: str, payload: str | None) -> str:
    """The only hook body there is (recorded answers, section 4)."""
    return json.dumps(
        {"microvmId": microvm_id, "runHookPayload": payload or ""}, separators=(",", ":")
    )


def failure_reason(name: HookName, answer: HookAnswer) -> str:
    """The recorded ``stateReason`` of a MicroVM whose hook failed."""
    what = (
        f"returned HTTP status {answer.status}"
        if answer.status is not None
        else "timed out"
        if answer.error == "timeout"
        else "could not be reached"
    )
    return (
        f"{name.value.capitalize()} lifecycle hook {what}. "
        "Please check your hook endpoint and application logs for more details."
    )


def build_failure_reason(name: HookName, answer: HookAnswer, timeout_s: int) -> str:
    """The recorded ``stateReason`` of a build whose ready or validate hook failed."""
    title = name.value.capitalize()
    if answer.status is not None and answer.status != 503:
        return f"{title} hook returned HTTP status {answer.status}"
    return f"{title} hook invocation timed out after {iso_duration(timeout_s)}"


def iso_duration(seconds: int) -> str:
    """``PT5M``, ``PT1M30S``, as Java prints a Duration."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (left, "S")) if n]
    return "PT" + ("".join(parts) or "0S")
