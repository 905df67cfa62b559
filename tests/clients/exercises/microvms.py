"""MicroVMs: run, get, list, suspend, resume, terminate, tokens for their endpoints."""

import time
from typing import Any

from tests.clients.exercises.images import echoed, refused, sendable
from tests.clients.exercises.registry import EXECUTION_ROLE, MANAGED, World, exercise, image_arn
from tests.clients.exercises.versions import INVALID, NOT_FOUND, same_instant
from tests.clients.live import FAIL, REGION
from tests.clients.outcome import Client, instant

GHOST = "microvm-00000000-0000-4000-8000-000000000000"
POLICY = {
    "maxIdleDurationSeconds": 60,
    "suspendedDurationSeconds": 0,
    "autoResumeEnabled": False,
}


def everything(world: World) -> dict[str, Any]:
    """Every member of a run besides the image, none with its default."""
    return {
        "ingressNetworkConnectors": [f"{MANAGED}:HTTP_INGRESS", f"{MANAGED}:SHELL_INGRESS"],
        "egressNetworkConnectors": [f"{MANAGED}:INTERNET_EGRESS"],
        "executionRoleArn": EXECUTION_ROLE,
        "idlePolicy": POLICY,
        "kmsKeyIdentifier": world.key,
        "maximumDurationInSeconds": 3600,
    }


def with_run_hook(world: World) -> str:
    hooks = {
        "port": 9000,
        "microvmHooks": {"run": "ENABLED"},
        "microvmImageHooks": {"ready": "ENABLED"},
    }
    return world.image(hooks=hooks)


@exercise("RunMicrovm")
def run(aws: Client, world: World) -> None:
    arn = with_run_hook(world)
    started = aws.call("RunMicrovm", imageIdentifier=arn)
    assert started.status == 200
    document = started.document
    assert abs(instant(document["startedAt"]) - time.time()) < 60
    assert document["microvmId"].startswith("microvm-")
    assert document["endpoint"].endswith(f".lambda-microvm.{REGION}.microvm.localhost")
    defaults = {
        "imageArn": arn,
        "imageVersion": "1.0",
        "state": "PENDING",
        "maximumDurationInSeconds": 28800,
        "ingressNetworkConnectors": [f"{MANAGED}:HTTP_INGRESS"],
        "egressNetworkConnectors": [f"{MANAGED}:INTERNET_EGRESS"],
    }
    assert document == defaults | {k: document[k] for k in ("microvmId", "endpoint", "startedAt")}

    whole = sendable(aws, "RunMicrovm", everything(world))
    silent = {
        "imageVersion": "1.0",
        "logging": {"cloudWatch": {"logGroup": "/team/runs", "logStream": "one"}},
        "runHookPayload": '{"greeting": "Grüße"}',
        "clientToken": world.name("token"),
    }
    started = aws.call("RunMicrovm", imageIdentifier=arn, **whole, **silent)
    assert started.status == 200
    echoed(whole, started.document)
    assert not started.document.keys() & {"logging", "runHookPayload"}
    again = aws.call("RunMicrovm", imageIdentifier=arn, **whole, **silent)
    assert again.document["microvmId"] == started.document["microvmId"]
    other = aws.call("RunMicrovm", imageIdentifier=arn, clientToken=silent["clientToken"])
    assert other.refusal == (409, "ConflictException")

    ghost = image_arn("ghost")
    refused(aws.call("RunMicrovm", imageIdentifier=ghost), *NOT_FOUND, ghost)
    failed = world.unbuilt_image(name=world.name(), codeArtifact={"uri": FAIL})
    world.until("GetMicrovmImage", "CREATE_FAILED", imageIdentifier=failed)
    refused(
        aws.call("RunMicrovm", imageIdentifier=failed),
        *NOT_FOUND,
        f"No active version found for MicroVM image {failed}",
    )
    refused(
        aws.call("RunMicrovm", imageIdentifier=arn, runHookPayload="ü" * 2049),
        *INVALID,
        "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: "
        "Member must have length less than or equal to 4096",
    )


@exercise("GetMicrovm")
def get(aws: Client, world: World) -> None:
    whole = everything(world)
    arn = world.image()
    microvm = world.microvm(arn, **whole)
    found = aws.call("GetMicrovm", microvmIdentifier=microvm)
    assert found.status == 200
    echoed(aws.model.shown("GetMicrovm", whole), found.document)
    assert (found.document["imageArn"], found.document["imageVersion"]) == (arn, "1.0")
    assert found.document["state"] == "RUNNING"
    assert not found.document.keys() & {"stateReason", "terminatedAt"}
    world.arrange.call("TerminateMicrovm", microvmIdentifier=microvm)
    ended = world.until("GetMicrovm", "TERMINATED", microvmIdentifier=microvm)
    found = aws.call("GetMicrovm", microvmIdentifier=microvm)
    assert found.document["stateReason"] == "Success."
    assert same_instant(found.document["terminatedAt"], ended["terminatedAt"])
    refused(
        aws.call("GetMicrovm", microvmIdentifier=GHOST), *NOT_FOUND, f"MicroVM not found: {GHOST}"
    )


@exercise("ListMicrovms")
def list_microvms(aws: Client, world: World) -> None:
    arn = world.image()
    made = [world.microvm(arn) for _ in range(3)][::-1]
    assert aws.call("ListMicrovms").status == 200
    listed = aws.call("ListMicrovms", imageIdentifier=arn, imageVersion="1.0", maxResults=2)
    assert [item["microvmId"] for item in listed.document["items"]] == made[:2]
    item = listed.document["items"][0]
    assert item.keys() == {"microvmId", "state", "imageArn", "imageVersion", "startedAt"}
    following = aws.call(
        "ListMicrovms",
        imageIdentifier=arn,
        imageVersion="1.0",
        maxResults=2,
        nextToken=listed.document["nextToken"],
    )
    assert [item["microvmId"] for item in following.document["items"]] == made[2:]
    assert "nextToken" not in following.document
    paged = aws.items("ListMicrovms", 1, imageIdentifier=arn)
    assert [item["microvmId"] for item in paged] == made
    for members in ({"maxResults": 51}, {"nextToken": "made-up"}):
        assert aws.call("ListMicrovms", **members).refusal == INVALID


def _moves(aws: Client, world: World, operation: str, microvm: str, state: str) -> None:
    done = aws.call(operation, microvmIdentifier=microvm)
    assert (done.status, done.document) == (200, {})
    world.until("GetMicrovm", state, microvmIdentifier=microvm)
    # Recorded: asking again for what is there already is no conflict.
    assert aws.call(operation, microvmIdentifier=microvm).status == 200


def _final(aws: Client, world: World, operation: str, microvm: str) -> None:
    world.arrange.call("TerminateMicrovm", microvmIdentifier=microvm)
    world.until("GetMicrovm", "TERMINATED", microvmIdentifier=microvm)
    refused(
        aws.call(operation, microvmIdentifier=microvm),
        *INVALID,
        f"The MicroVM {microvm} has been terminated and its state cannot be changed.",
    )
    refused(aws.call(operation, microvmIdentifier=GHOST), *NOT_FOUND, GHOST)


@exercise("SuspendMicrovm")
def suspend(aws: Client, world: World) -> None:
    microvm = world.microvm(world.image())
    _moves(aws, world, "SuspendMicrovm", microvm, "SUSPENDED")
    _final(aws, world, "SuspendMicrovm", microvm)


@exercise("ResumeMicrovm")
def resume(aws: Client, world: World) -> None:
    microvm = world.microvm(world.image())
    world.arrange.call("SuspendMicrovm", microvmIdentifier=microvm)
    world.until("GetMicrovm", "SUSPENDED", microvmIdentifier=microvm)
    _moves(aws, world, "ResumeMicrovm", microvm, "RUNNING")
    _final(aws, world, "ResumeMicrovm", microvm)


@exercise("TerminateMicrovm")
def terminate(aws: Client, world: World) -> None:
    microvm = world.microvm(world.image())
    _moves(aws, world, "TerminateMicrovm", microvm, "TERMINATED")
    refused(aws.call("TerminateMicrovm", microvmIdentifier=GHOST), *NOT_FOUND, GHOST)


@exercise("CreateMicrovmAuthToken")
def auth_token(aws: Client, world: World) -> None:
    microvm = world.microvm(world.image())
    endpoint = world.arrange.call("GetMicrovm", microvmIdentifier=microvm).document["endpoint"]
    for ports, scope in (
        ([{"port": 8080}], "8080"),
        ([{"port": 1}, {"range": {"startPort": 2, "endPort": 65535}}], "1,2-65535"),
        ([{"allPorts": {}}], "*"),
    ):
        made = aws.call(
            "CreateMicrovmAuthToken",
            microvmIdentifier=microvm,
            expirationInMinutes=60,
            allowedPorts=ports,
        )
        assert made.status == 200
        assert made.document.keys() == {"authToken"}
        claims = world.api.issuer.verify(made.document["authToken"]["X-aws-proxy-auth"])
        assert (claims.ports, claims.scope) == (scope, "http")
        assert claims.endpoint_id == endpoint.split(".")[0]
        assert 3540 < claims.expires_at - time.time() <= 3600
    ports = [{"allPorts": {}}]
    refused(
        aws.call(
            "CreateMicrovmAuthToken",
            microvmIdentifier=microvm,
            expirationInMinutes=61,
            allowedPorts=ports,
        ),
        *INVALID,
        "ExpirationMinutes 61 exceeded max allowed of 60.",
    )
    absent = aws.call(
        "CreateMicrovmAuthToken",
        microvmIdentifier=GHOST,
        expirationInMinutes=1,
        allowedPorts=ports,
    )
    assert absent.refusal == NOT_FOUND


@exercise("CreateMicrovmShellAuthToken")
def shell_token(aws: Client, world: World) -> None:
    arn = world.image()
    microvm = world.microvm(arn, ingressNetworkConnectors=[f"{MANAGED}:SHELL_INGRESS"])
    made = aws.call("CreateMicrovmShellAuthToken", microvmIdentifier=microvm, expirationInMinutes=5)
    assert made.status == 200
    claims = world.api.issuer.verify(made.document["authToken"]["X-aws-proxy-auth"])
    assert claims.scope == "shell"
    assert 240 < claims.expires_at - time.time() <= 300
    refused(
        aws.call(
            "CreateMicrovmShellAuthToken",
            microvmIdentifier=world.microvm(arn),
            expirationInMinutes=5,
        ),
        *INVALID,
        "Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.",
    )
    absent = aws.call("CreateMicrovmShellAuthToken", microvmIdentifier=GHOST, expirationInMinutes=5)
    assert absent.refusal == NOT_FOUND
