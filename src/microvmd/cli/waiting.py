"""Waiting for a state through the AWS API, which can only be asked again and again."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from microvmd.cli.client import Service
from microvmd.cli.output import without_metadata
from microvmd.service.failure import Failure

MICROVM_SECONDS = 120.0
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5
Answer = TypeVar("Answer")
# Where a MicroVM cannot come back from.
FINAL = "TERMINATED"


def poll(ask: Callable[[], Answer | None], *, limit: float) -> Answer | None:
    """The first answer of ``ask`` that is not None, or None after ``limit`` seconds."""
    end = time.monotonic() + limit
    pause = FIRST_PAUSE
    stopped = threading.Event()
    while (answer := ask()) is None:
        if time.monotonic() + pause > end:
            return None
        stopped.wait(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return answer


def wait_for_microvm(
    service: Service, microvm_id: str, wanted: str, *, limit: float = MICROVM_SECONDS
) -> dict[str, Any]:
    """GetMicrovm's answer once it is in state ``wanted``. Raises Failure when it never will be."""
    state = ""

    def ask() -> dict[str, Any] | None:
        nonlocal state
        answer = without_metadata(service.microvms.get_microvm(microvmIdentifier=microvm_id))
        state = answer["state"]
        if state == wanted:
            return answer
        if state == FINAL:
            reason = answer.get("stateReason") or "no reason given"
            raise Failure(
                f"{microvm_id} is {state}: {reason}", f"microvmd logs {microvm_id} tells more"
            )
        return None

    answer = poll(ask, limit=limit)
    if answer is None:
        raise Failure(f"{microvm_id} is still {state} after {limit:.0f} s, not {wanted}")
    return answer
