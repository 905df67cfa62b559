"""Every operation on images and MicroVMs by a user whose policies allow nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.clients.client_awscli import AwsCli
from tests.clients.client_boto3 import Boto3Client
from tests.clients.client_javascript import JavaScriptSdk
from tests.clients.exercises.registry import BASE, IMAGE, World
from tests.clients.live import ACCOUNT, LiveApi
from tests.clients.outcome import Caller, Client, Outcome
from tests.clients.raw import ask
from tests.clients.served import AWSCLI, BOTO3, JAVASCRIPT

CLIENTS: Mapping[str, Callable[[LiveApi, Path, Caller], Client]] = {
    BOTO3: lambda api, _, caller: Boto3Client(api, caller),
    AWSCLI: AwsCli,
    JAVASCRIPT: lambda api, _, caller: JavaScriptSdk(api, caller),
}
"""Makes a client of each kind that says it is this caller."""
BY_AWSCLI = frozenset({"GetMicrovmImage", "RunMicrovm", "TagResource"})
"""A process for each call is slow, and the three show what there is to see."""
_USERS = f"/microvmd/v1/accounts/{ACCOUNT}/users"
_KEYS = f"/microvmd/v1/accounts/{ACCOUNT}/keys"


def user_without_rights(api: LiveApi, name: str) -> Caller:
    """Make a user and its key by the service's own routes."""
    status, _, answer = ask(api, "POST", _USERS, {"name": name})
    assert status == 200, answer
    status, _, answer = ask(api, "POST", _KEYS, {"user": name})
    assert status == 200, answer
    return Caller(answer["key"]["access_key"], answer["key"]["secret"])


def requests(world: World) -> Mapping[str, Mapping[str, Any]]:
    """A request of each operation that its owner could make."""
    arn = world.image()
    image, version = {"imageIdentifier": arn}, {"imageIdentifier": arn, "imageVersion": "1.0"}
    (build,) = world.arrange.call("ListMicrovmImageBuilds", **version).document["items"]
    one = {"microvmIdentifier": world.microvm(arn)}
    minutes = {"expirationInMinutes": 5}
    return {
        "CreateMicrovmAuthToken": one | minutes | {"allowedPorts": [{"port": 80}]},
        "CreateMicrovmImage": IMAGE | {"name": world.name("denied")},
        "CreateMicrovmShellAuthToken": one | minutes,
        "DeleteMicrovmImage": image,
        "DeleteMicrovmImageVersion": version,
        "GetMicrovm": one,
        "GetMicrovmImage": image,
        "GetMicrovmImageBuild": version | {"buildId": build["buildId"]},
        "GetMicrovmImageVersion": version,
        "ListManagedMicrovmImageVersions": {"imageIdentifier": BASE},
        "ListManagedMicrovmImages": {},
        "ListMicrovmImageBuilds": version,
        "ListMicrovmImageVersions": image,
        "ListMicrovmImages": {},
        "ListMicrovms": {},
        "ListTags": {"Resource": arn},
        "ResumeMicrovm": one,
        "RunMicrovm": image,
        "SuspendMicrovm": one,
        "TagResource": {"Resource": arn, "Tags": {"a": "b"}},
        "TerminateMicrovm": one,
        "UntagResource": {"Resource": arn, "TagKeys": ["a"]},
        "UpdateMicrovmImage": image | IMAGE,
        "UpdateMicrovmImageVersion": version | {"status": "INACTIVE"},
    }


def deny_all(world: World, home: Path) -> Mapping[tuple[str, str], Outcome]:
    """What came of each request, by client and operation."""
    caller = user_without_rights(world.api, "nobody")
    outcomes: dict[tuple[str, str], Outcome] = {}
    for name, make in CLIENTS.items():
        client = make(world.api, home, caller)
        try:
            for operation, members in requests(world).items():
                if name != AWSCLI or operation in BY_AWSCLI:
                    outcomes[name, operation] = client.call(operation, **members)
        finally:
            client.close()
    return outcomes
