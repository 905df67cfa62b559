"""Run, get, list, suspend, resume, terminate: the wire side of ``control.microvms``."""

from collections.abc import Mapping
from typing import Any, Protocol

from microvmd.api.requests import RequestContext
from microvmd.api.validate import failure
from microvmd.control.microvms import MicroVms
from microvmd.model.errors import ValidationError
from microvmd.model.microvm import IdlePolicy, MicroVm

Request = Mapping[str, Any]

PAYLOAD_BYTES = 4096


class EndpointName(Protocol):
    """How an endpoint id is spelled as a host; knows region, domain and port."""

    def __call__(self, endpoint_id: str) -> str: ...


class MicrovmHandlers:
    """One method for each operation on MicroVMs."""

    def __init__(self, microvms: MicroVms, endpoint_name: EndpointName) -> None:
        self._microvms = microvms
        self._endpoint_name = endpoint_name

    async def run_microvm(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        _check_payload(request.get("runHookPayload"))
        return self._detail(await self._microvms.run(context.account, request))

    async def get_microvm(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        found = await self._microvms.get(context.account, context.microvm_id(request))
        return self._detail(found)

    async def list_microvms(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        page = await self._microvms.list_microvms(
            context.account,
            image_identifier=request.get("imageIdentifier"),
            image_version=request.get("imageVersion"),
            max_results=request.get("maxResults"),
            next_token=request.get("nextToken"),
        )
        return {"items": [_item(found) for found in page.items], "nextToken": page.next_token}

    async def suspend_microvm(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        await self._microvms.suspend(context.account, context.microvm_id(request))
        return {}

    async def resume_microvm(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        await self._microvms.resume(context.account, context.microvm_id(request))
        return {}

    async def terminate_microvm(
        self, context: RequestContext, request: Request
    ) -> Mapping[str, Any]:
        await self._microvms.terminate(context.account, context.microvm_id(request))
        return {}

    def _detail(self, microvm: MicroVm) -> dict[str, Any]:
        return {
            **_item(microvm),
            "endpoint": self._endpoint_name(microvm.endpoint_id),
            "executionRoleArn": microvm.execution_role_arn,
            "idlePolicy": _idle_policy(microvm.idle_policy),
            "maximumDurationInSeconds": microvm.maximum_duration_s,
            "terminatedAt": microvm.terminated_at,
            "stateReason": microvm.state_reason,
            "kmsKeyIdentifier": microvm.kms_key,
            "ingressNetworkConnectors": microvm.ingress,
            "egressNetworkConnectors": microvm.egress,
            "terminationReasonCode": None,
        }


def _item(microvm: MicroVm) -> dict[str, Any]:
    return {
        "microvmId": microvm.microvm_id,
        "state": microvm.state.value,
        "imageArn": microvm.image_arn,
        "imageVersion": microvm.image_version,
        "startedAt": microvm.started_at,
    }


def _idle_policy(policy: IdlePolicy | None) -> dict[str, Any] | None:
    if policy is None:
        return None
    return {
        "maxIdleDurationSeconds": policy.max_idle_s,
        "suspendedDurationSeconds": policy.suspended_s,
        "autoResumeEnabled": policy.auto_resume,
    }


def _check_payload(payload: str | None) -> None:
    """Recorded: the limit of the payload is one of UTF-8 bytes, not of characters."""
    if payload is not None and len(payload.encode()) > PAYLOAD_BYTES:
        constraint = f"Member must have length less than or equal to {PAYLOAD_BYTES}"
        text = failure("runHookPayload", payload, constraint, sensitive=True)
        raise ValidationError(f"1 validation error detected: {text}")
