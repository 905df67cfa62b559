"""What the node found out about the machine's processor, for those who only look."""

from collections.abc import Mapping

from microvmd.settings.settings import Settings
from microvmd.vmm.accelerator import remembered

CACHE = "accelerator.json"


def told_accelerator(settings: Settings) -> Mapping[str, str] | None:
    """``kind`` (kvm or tcg) and why; None where no node has found it out since the boot."""
    if settings.vmm.accelerator != "auto":
        return {"kind": settings.vmm.accelerator, "reason": "as configured (vmm.accelerator)"}
    found = remembered(settings.cache / CACHE)
    return None if found is None else {"kind": found.kind.value, "reason": found.reason}
