"""The requests behind the golden files, in an order in which each finds what it needs.

``RECORDED`` marks answers of which the real service's own was seen; there a difference in a golden
file is a fault until a newer recording says otherwise.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.clients.live import ACCOUNT, FAIL, HOLD, REGION
from tests.clients.recorder import CHOSEN, RECORDED, Recorder

IMAGES = "/2025-09-09/microvm-images"
RUNS = "/2025-09-09/microvms"
MANAGED = "/2025-09-09/managed-microvm-images"
TAGS = "/2017-03-31/tags"
CONNECTORS = "/2026-04-04/network-connectors"
BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
PLATFORM = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector"
NOBODY = "microvm-00000000-0000-4000-8000-000000000000"
EGRESS = {
    "AssociatedComputeResourceTypes": ["MicroVm"],
    "NetworkProtocol": "IPv4",
    "SecurityGroupIds": ["sg-f0e6979f"],
    "SubnetIds": ["subnet-15c2f37d"],
}
CONNECTOR: dict[str, Any] = {
    "Name": "net",
    "Configuration": {"VpcEgressConfiguration": EGRESS},
    "OperatorRole": f"arn:aws:iam::{ACCOUNT}:role/operator",
    "ClientToken": "net-1",
}
LEAST = {
    "baseImageArn": BASE,
    "buildRoleArn": f"arn:aws:iam::{ACCOUNT}:role/build",
    "codeArtifact": {"uri": "s3://bucket/app.zip"},
}
HOOKS = {
    "port": 9000,
    "microvmHooks": {
        "run": "ENABLED",
        "runTimeoutInSeconds": 60,
        "resume": "ENABLED",
        "resumeTimeoutInSeconds": 2,
        "suspend": "ENABLED",
        "suspendTimeoutInSeconds": 3,
        "terminate": "DISABLED",
        "terminateTimeoutInSeconds": 4,
    },
    "microvmImageHooks": {
        "ready": "ENABLED",
        "readyTimeoutInSeconds": 3600,
        "validate": "ENABLED",
        "validateTimeoutInSeconds": 30,
    },
}
WHOLE = LEAST | {
    "additionalOsCapabilities": ["ALL"],
    "baseImageVersion": "1",
    "cpuConfigurations": [{"architecture": "ARM_64"}],
    "description": 'Größe "XL"',
    "egressNetworkConnectors": [f"{PLATFORM}:INTERNET_EGRESS"],
    "environmentVariables": {"MODE": "test", "EMPTY": ""},
    "hooks": HOOKS,
    "logging": {"cloudWatch": {"logGroup": "/team/builds", "logStream": "nightly"}},
    "resources": [{"minimumMemoryInMiB": 512}],
}

BAD = {
    "name": "no blanks",
    "buildRoleArn": "build",
    "resources": [{"minimumMemoryInMiB": 1}, {"minimumMemoryInMiB": 2}],
    "hooks": {"port": 65536},
    "cpuConfigurations": [{"architecture": "Z80"}],
}


def arn(name: str) -> str:
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:{name}"


def create_image(raw: Recorder) -> None:
    """CreateMicrovmImage: 201 and the whole shape; tags are null in it."""
    raw("create-image-least", RECORDED, "POST", IMAGES, LEAST | {"name": "least"})
    request = WHOLE | {"name": "whole", "tags": {"team": "a"}, "clientToken": "whole-1"}
    raw("create-image-whole", CHOSEN, "POST", IMAGES, request)
    raw(
        "create-image-token-of-other",
        CHOSEN,
        "POST",
        IMAGES,
        request | {"name": "other"},
    )
    raw("create-image-name-taken", RECORDED, "POST", IMAGES, LEAST | {"name": "least"})
    raw("create-image-members-missing", RECORDED, "POST", IMAGES, {"name": "x"})
    raw("create-image-bad-name", RECORDED, "POST", IMAGES, LEAST | {"name": "bad name!"})
    raw("create-image-bad-members", CHOSEN, "POST", IMAGES, LEAST | BAD)
    raw("create-image-not-json", CHOSEN, "POST", IMAGES, body=b'{"name": ')
    raw("create-image-wrong-type", CHOSEN, "POST", IMAGES, LEAST | {"name": ["x"]})
    raw("create-image-unsigned", CHOSEN, "POST", IMAGES, LEAST | {"name": "x"}, signed=False)


def read_image(raw: Recorder) -> None:
    """GetMicrovmImage and ListMicrovmImages: the small shape."""
    for name in ("least", "whole"):
        raw.until(f"{IMAGES}/{arn(name)}", lambda found: found["state"] == "CREATED")
    raw("get-image", RECORDED, "GET", f"{IMAGES}/{arn('least')}")
    raw("get-image-with-tags", CHOSEN, "GET", f"{IMAGES}/{quote(arn('whole'), safe='')}")
    raw("get-image-unknown", RECORDED, "GET", f"{IMAGES}/{arn('ghost')}")
    raw("get-image-by-name", RECORDED, "GET", f"{IMAGES}/ghost")
    raw(
        "get-image-slash-in-arn",
        RECORDED,
        "GET",
        f"{IMAGES}/{quote(arn('ghost').replace('image:', 'image/'), safe='')}",
    )
    first = raw("list-images-first-page", RECORDED, "GET", f"{IMAGES}?maxResults=1")
    token = quote(first["nextToken"], safe="")
    raw("list-images-last-page", RECORDED, "GET", f"{IMAGES}?nextToken={token}")
    raw("list-images-filtered", RECORDED, "GET", f"{IMAGES}?nameFilter=who")
    raw("list-images-raw-equals-sign", RECORDED, "GET", f"{IMAGES}?nextToken=a==")
    raw("list-images-made-up-token", CHOSEN, "GET", f"{IMAGES}?nextToken=made-up")
    raw("list-images-too-many", CHOSEN, "GET", f"{IMAGES}?maxResults=51")


def update_image(raw: Recorder) -> None:
    """UpdateMicrovmImage: the whole shape without tags."""
    path = f"{IMAGES}/{arn('least')}"
    raw("update-image-least", RECORDED, "PUT", path, LEAST)
    raw.until(path, lambda found: found["state"] == "UPDATED")
    raw("update-image-whole", CHOSEN, "PUT", path, WHOLE)
    raw.until(path, lambda found: found["state"] == "UPDATED")
    raw.quietly("POST", IMAGES, LEAST | {"name": "held"})
    raw.until(f"{IMAGES}/{arn('held')}", lambda found: found["state"] == "CREATED")
    raw.quietly("PUT", f"{IMAGES}/{arn('held')}", LEAST | {"codeArtifact": {"uri": HOLD}})
    raw("update-image-updating", CHOSEN, "PUT", f"{IMAGES}/{arn('held')}", LEAST)
    raw(
        "update-version-of-updating-image",
        RECORDED,
        "PATCH",
        f"{IMAGES}/{arn('held')}/versions/1.0",
        {"status": "INACTIVE"},
    )
    raw("update-image-unknown", RECORDED, "PUT", f"{IMAGES}/{arn('ghost')}", LEAST)
    raw("update-image-members-missing", RECORDED, "PUT", path, {})


def versions(raw: Recorder) -> None:
    """Versions: get, list and the PATCH have one shape."""
    path = f"{IMAGES}/{arn('least')}/versions"
    raw("get-version", RECORDED, "GET", f"{path}/1.0")
    raw("get-version-whole", CHOSEN, "GET", f"{path}/3.0")
    raw("get-version-unknown", RECORDED, "GET", f"{path}/9.0")
    raw("get-version-of-unknown-image", RECORDED, "GET", f"{IMAGES}/{arn('ghost')}/versions/1.0")
    raw("list-versions", RECORDED, "GET", f"{IMAGES}/{arn('whole')}/versions")
    raw("list-versions-first-page", CHOSEN, "GET", f"{path}?maxResults=1")
    raw("list-versions-of-unknown-image", CHOSEN, "GET", f"{IMAGES}/{arn('ghost')}/versions")
    for number in ("3.0", "1.0"):
        raw.quietly("PATCH", f"{path}/{number}", {"status": "INACTIVE"})
    raw("update-version", RECORDED, "PATCH", f"{path}/2.0", {"status": "INACTIVE"})
    raw("run-without-active-version", RECORDED, "POST", RUNS, {"imageIdentifier": arn("least")})
    pinned = {"imageIdentifier": arn("least"), "imageVersion": "2.0"}
    raw("run-inactive-version", RECORDED, "POST", RUNS, pinned)
    raw("update-version-bad-status", CHOSEN, "PATCH", f"{path}/2.0", {"status": "OFF"})
    raw("update-version-unknown", CHOSEN, "PATCH", f"{path}/9.0", {"status": "ACTIVE"})
    raw("delete-version", RECORDED, "DELETE", f"{path}/1.0")
    raw("delete-version-unknown", CHOSEN, "DELETE", f"{path}/9.0")
    raw("delete-last-version", CHOSEN, "DELETE", f"{IMAGES}/{arn('whole')}/versions/1.0")


def builds(raw: Recorder) -> None:
    """Builds: a failed one tells its reason; only the single one tells sizes."""
    path = f"{IMAGES}/{arn('whole')}/versions/1.0/builds"
    listed = raw("list-builds", RECORDED, "GET", path)
    raw("get-build", RECORDED, "GET", f"{path}/{listed['items'][0]['buildId']}")
    raw("get-build-unknown", CHOSEN, "GET", f"{path}/{NOBODY.removeprefix('microvm-')}")
    raw("list-builds-of-other-machine", CHOSEN, "GET", f"{path}?architecture=ARM_64")
    raw("list-builds-bad-architecture", CHOSEN, "GET", f"{path}?architecture=Z80")
    raw.quietly("POST", IMAGES, LEAST | {"name": "failed", "codeArtifact": {"uri": FAIL}})
    raw.until(f"{IMAGES}/{arn('failed')}", lambda found: found["state"] == "CREATE_FAILED")
    raw("get-failed-image", CHOSEN, "GET", f"{IMAGES}/{arn('failed')}")
    raw("get-failed-version", RECORDED, "GET", f"{IMAGES}/{arn('failed')}/versions/1.0")
    failed = f"{IMAGES}/{arn('failed')}/versions/1.0/builds"
    listed = raw("list-failed-builds", RECORDED, "GET", failed)
    raw("get-failed-build", RECORDED, "GET", f"{failed}/{listed['items'][0]['buildId']}")
    unknown = f"{IMAGES}/{arn('ghost')}/versions/1.0/builds"
    raw("list-builds-of-unknown-image", CHOSEN, "GET", unknown)


def managed_images(raw: Recorder) -> None:
    """The images that the platform offers as a base."""
    raw("list-managed-images", RECORDED, "GET", MANAGED)
    raw("list-managed-images-made-up-token", CHOSEN, "GET", f"{MANAGED}?nextToken=made-up")
    raw("list-managed-versions", RECORDED, "GET", f"{MANAGED}/{BASE}/versions")
    first = raw(
        "list-managed-versions-first-page", CHOSEN, "GET", f"{MANAGED}/{BASE}/versions?maxResults=1"
    )
    token = quote(first["nextToken"], safe="")
    raw(
        "list-managed-versions-last-page",
        CHOSEN,
        "GET",
        f"{MANAGED}/{BASE}/versions?maxResults=1&nextToken={token}",
    )
    ghost = BASE.replace("al2023-1", "ghost")
    raw("list-managed-versions-unknown", CHOSEN, "GET", f"{MANAGED}/{ghost}/versions")


def run_microvm(raw: Recorder) -> None:
    """RunMicrovm: PENDING at once, with what was resolved."""
    image = {"imageIdentifier": arn("whole")}
    first = raw("run-least", RECORDED, "POST", RUNS, image)
    request = image | {
        "imageVersion": "1.0",
        "clientToken": "run-1",
        "egressNetworkConnectors": [f"{PLATFORM}:INTERNET_EGRESS"],
        "executionRoleArn": f"arn:aws:iam::{ACCOUNT}:role/execution",
        "idlePolicy": {
            "autoResumeEnabled": True,
            "maxIdleDurationSeconds": 60,
            "suspendedDurationSeconds": 0,
        },
        "ingressNetworkConnectors": [f"{PLATFORM}:HTTP_INGRESS", f"{PLATFORM}:SHELL_INGRESS"],
        "logging": {"disabled": {}},
        "maximumDurationInSeconds": 3600,
        "runHookPayload": "{}",
    }
    raw("run-whole", CHOSEN, "POST", RUNS, request)
    again = request | {"maximumDurationInSeconds": 60}
    raw("run-token-of-other", CHOSEN, "POST", RUNS, again)
    raw("run-members-missing", RECORDED, "POST", RUNS, {})
    raw("run-image-by-name", RECORDED, "POST", RUNS, {"imageIdentifier": "whole"})
    raw("run-half-an-arn", CHOSEN, "POST", RUNS, {"imageIdentifier": "arn:aws:lambda:us-east-1"})
    raw("run-unknown-image", RECORDED, "POST", RUNS, {"imageIdentifier": arn("ghost")})
    raw("run-payload-too-long", RECORDED, "POST", RUNS, image | {"runHookPayload": "x" * 4097})
    for name, connectors in (
        ("unknown", [f"{PLATFORM}:LAN_EGRESS"]),
        ("malformed", ["INTERNET_EGRESS"]),
    ):
        document = image | {"egressNetworkConnectors": connectors}
        raw(f"run-{name}-connector", RECORDED, "POST", RUNS, document)
    policy = {"idlePolicy": {"maxIdleDurationSeconds": 59}}
    raw("run-half-a-policy", CHOSEN, "POST", RUNS, image | policy)
    raw.until(f"{RUNS}/{first['microvmId']}", lambda found: found["state"] == "RUNNING")


def one_microvm(raw: Recorder) -> None:
    """A life: read, suspended, resumed, terminated, and what it answers afterwards."""
    path = f"{RUNS}?imageIdentifier={quote(arn('whole'), safe='')}"
    listed = raw("list-microvms", RECORDED, "GET", path)
    microvm = listed["items"][-1]["microvmId"]
    first = raw("list-microvms-first-page", CHOSEN, "GET", f"{path}&maxResults=1")
    token = quote(first["nextToken"], safe="")
    raw("list-microvms-last-page", CHOSEN, "GET", f"{path}&maxResults=1&nextToken={token}")
    other = f"{RUNS}?imageIdentifier={quote(arn('held'), safe='')}&imageVersion=1.0"
    raw("list-microvms-none", CHOSEN, "GET", other)
    raw("list-microvms-too-many", CHOSEN, "GET", f"{RUNS}?maxResults=0")
    one = f"{RUNS}/{microvm}"
    raw("get-microvm-running", RECORDED, "GET", one)
    by_arn = quote(f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm:{microvm}", safe="")
    raw("get-microvm-by-arn", CHOSEN, "GET", f"{RUNS}/{by_arn}")
    raw("delete-image-with-microvms", RECORDED, "DELETE", f"{IMAGES}/{arn('whole')}")
    raw("suspend", RECORDED, "POST", f"{one}/suspend")
    raw.until(one, lambda found: found["state"] == "SUSPENDED")
    raw("get-microvm-suspended", RECORDED, "GET", one)
    ports = {"expirationInMinutes": 5, "allowedPorts": [{"allPorts": {}}]}
    raw("auth-token-while-suspended", RECORDED, "POST", f"{one}/auth-token", ports)
    raw("suspend-suspended", RECORDED, "POST", f"{one}/suspend")
    raw("resume", RECORDED, "POST", f"{one}/resume")
    raw.until(one, lambda found: found["state"] == "RUNNING")
    raw("resume-running", RECORDED, "POST", f"{one}/resume")
    raw("terminate", RECORDED, "DELETE", one)
    raw.until(one, lambda found: found["state"] == "TERMINATED")
    raw("get-microvm-terminated", RECORDED, "GET", one)
    raw("suspend-terminated", RECORDED, "POST", f"{one}/suspend")
    raw("resume-terminated", CHOSEN, "POST", f"{one}/resume")
    raw("terminate-terminated", RECORDED, "DELETE", one)
    for verb, method, end in (
        ("get", "GET", ""),
        ("suspend", "POST", "/suspend"),
        ("resume", "POST", "/resume"),
        ("terminate", "DELETE", ""),
    ):
        raw(f"{verb}-microvm-unknown", RECORDED, method, f"{RUNS}/{NOBODY}{end}")


def tokens(raw: Recorder) -> None:
    """Tokens for an endpoint: a map with one header in it."""
    shells = [f"{PLATFORM}:SHELL_INGRESS"]
    ids = {
        name: raw.quietly("POST", RUNS, {"imageIdentifier": arn("whole")} | members)["microvmId"]
        for name, members in (
            ("plain", {}),
            ("shell", {"ingressNetworkConnectors": shells}),
            ("both", {"ingressNetworkConnectors": [f"{PLATFORM}:ALL_INGRESS", *shells]}),
        )
    }
    http = {name: f"{RUNS}/{microvm}/auth-token" for name, microvm in ids.items()}
    shell = {name: f"{RUNS}/{microvm}/shell-auth-token" for name, microvm in ids.items()}
    ports: dict[str, Any] = {
        "expirationInMinutes": 60,
        "allowedPorts": [
            {"port": 8080},
            {"range": {"startPort": 1, "endPort": 65535}},
            {"allPorts": {}},
        ],
    }
    raw("auth-token", RECORDED, "POST", http["plain"], ports)
    raw(
        "auth-token-61-minutes",
        RECORDED,
        "POST",
        http["plain"],
        ports | {"expirationInMinutes": 61},
    )
    raw("auth-token-members-missing", CHOSEN, "POST", http["plain"], {})
    bad = {"allowedPorts": [{"port": 65536}, {"range": {"startPort": 9, "endPort": 1}}]}
    raw("auth-token-bad-ports", CHOSEN, "POST", http["plain"], ports | bad)
    true = {"allowedPorts": [{"allPorts": True}]}
    raw("auth-token-all-ports-true", RECORDED, "POST", http["plain"], ports | true)
    backwards = {"allowedPorts": [{"range": {"startPort": 9, "endPort": 1}}]}
    raw("auth-token-backwards-range", CHOSEN, "POST", http["plain"], ports | backwards)
    raw("auth-token-unknown-microvm", RECORDED, "POST", f"{RUNS}/{NOBODY}/auth-token", ports)
    minutes = {"expirationInMinutes": 5}
    raw("shell-token", RECORDED, "POST", shell["shell"], minutes)
    raw("shell-token-without-connector", RECORDED, "POST", shell["plain"], minutes)
    raw("shell-token-all-and-shell", RECORDED, "POST", shell["both"], minutes)
    raw("shell-token-unknown-microvm", CHOSEN, "POST", f"{RUNS}/{NOBODY}/shell-auth-token", minutes)
    for microvm in ids.values():
        raw.quietly("DELETE", f"{RUNS}/{microvm}")
        raw.until(f"{RUNS}/{microvm}", lambda found: found["state"] == "TERMINATED")


def tags(raw: Recorder) -> None:
    """Tags: 204 without a body; the members are spelled with capitals."""
    path = f"{TAGS}/{arn('whole')}"
    raw("tag", RECORDED, "POST", path, {"Tags": {"größe": "a b", "empty": ""}})
    raw("list-tags", RECORDED, "GET", path)
    raw("untag", RECORDED, "DELETE", f"{path}?tagKeys={quote('größe')}&tagKeys=absent")
    raw("list-tags-afterwards", CHOSEN, "GET", path)
    raw("tag-unknown-image", CHOSEN, "POST", f"{TAGS}/{arn('ghost')}", {"Tags": {"a": "b"}})
    raw("untag-unknown-image", CHOSEN, "DELETE", f"{TAGS}/{arn('ghost')}?tagKeys=a")
    raw("list-tags-of-microvm", RECORDED, "GET", f"{TAGS}/{arn('x').replace('-image:', ':')}")
    raw("tag-without-tags", CHOSEN, "POST", path, {})
    raw("untag-without-keys", CHOSEN, "DELETE", path)


def delete_image(raw: Recorder) -> None:
    """DeleteMicrovmImage: DELETING first, gone later; refused while something needs it."""
    raw.quietly("POST", IMAGES, LEAST | {"name": "building", "codeArtifact": {"uri": HOLD}})
    raw("delete-image-building", RECORDED, "DELETE", f"{IMAGES}/{arn('building')}")
    raw("delete-image", RECORDED, "DELETE", f"{IMAGES}/{arn('failed')}")
    raw.until(f"{IMAGES}/{arn('failed')}", lambda found: "message" in found)
    raw("get-deleted-image", RECORDED, "GET", f"{IMAGES}/{arn('failed')}")
    raw("delete-deleted-image", CHOSEN, "DELETE", f"{IMAGES}/{arn('failed')}")
    raw("delete-image-by-name", CHOSEN, "DELETE", f"{IMAGES}/ghost")


def connectors(raw: Recorder) -> None:
    """Network connectors: what is unset is left out, instants are ISO 8601, names have capitals."""
    made = raw("create-connector", RECORDED, "POST", CONNECTORS, CONNECTOR)
    one = f"{CONNECTORS}/{made['Id']}"
    raw.until(one, lambda found: found["State"] == "ACTIVE")
    raw("get-connector", RECORDED, "GET", one)
    raw("create-connector-token-of-other", CHOSEN, "POST", CONNECTORS, CONNECTOR | {"Name": "b"})
    again = CONNECTOR | {"ClientToken": "again"}
    raw("create-connector-name-taken", CHOSEN, "POST", CONNECTORS, again)
    raw(
        "create-connector-without-role",
        RECORDED,
        "POST",
        CONNECTORS,
        again | {"OperatorRole": None},
    )
    wrong = {"Configuration": {"VpcEgressConfiguration": {"SubnetIds": ["net-1"]}}}
    many = {"SubnetIds": [f"subnet-{number:017}" for number in range(1, 18)]}
    crowded = {"Name": "many", "Configuration": {"VpcEgressConfiguration": many}}
    raw("create-connector-too-many-subnets", RECORDED, "POST", CONNECTORS, crowded)
    raw("create-connector-bad-subnet", CHOSEN, "POST", CONNECTORS, again | wrong)
    change = {name: value for name, value in again.items() if name != "Name"}
    raw("update-connector-no-change", RECORDED, "PUT", one, change)
    egress = EGRESS | {"NetworkProtocol": "DualStack"}
    change |= {"ClientToken": "second", "Configuration": {"VpcEgressConfiguration": egress}}
    raw("update-connector", CHOSEN, "PUT", f"{CONNECTORS}/{CONNECTOR['Name']}", change)
    raw.until(one, lambda found: found.get("LastUpdateStatus") == "Successful")
    raw("get-connector-updated", CHOSEN, "GET", one)
    raw("get-connector-version", CHOSEN, "GET", f"{CONNECTORS}/{made['Arn']}:1")
    raw("list-connectors", RECORDED, "GET", CONNECTORS)
    raw("list-connector-versions", CHOSEN, "GET", f"{one}/versions")
    first = raw("list-connector-versions-first-page", CHOSEN, "GET", f"{one}/versions?MaxItems=1")
    marker = quote(first["NextMarker"], safe="")
    raw("list-connector-versions-last-page", CHOSEN, "GET", f"{one}/versions?Marker={marker}")
    raw("list-connectors-too-many", CHOSEN, "GET", f"{CONNECTORS}?MaxItems=101")
    raw("list-connectors-made-up-marker", CHOSEN, "GET", f"{CONNECTORS}?Marker=made-up")
    raw("tag-connector", CHOSEN, "POST", f"{TAGS}/{made['Arn']}", {"Tags": {"team": "a"}})
    raw("list-tags-of-connector", CHOSEN, "GET", f"{TAGS}/{made['Arn']}")
    raw("delete-connector-latest-version", CHOSEN, "DELETE", f"{CONNECTORS}/{made['Arn']}:2")
    raw("delete-connector", RECORDED, "DELETE", f"{CONNECTORS}/{made['Arn']}")
    raw.until(one, lambda found: "Message" in found)
    raw("get-connector-deleted", RECORDED, "GET", one)
    raw("delete-connector-deleted", CHOSEN, "DELETE", one)
    for verb, method, end in (
        ("get", "GET", ""),
        ("update", "PUT", ""),
        ("delete", "DELETE", ""),
        ("list-versions-of", "GET", "/versions"),
    ):
        document = change if method == "PUT" else None
        path = f"{CONNECTORS}/ghost{end}"
        raw(f"{verb}-connector-unknown", CHOSEN, method, path, document)


def no_operation(raw: Recorder) -> None:
    """What is no operation, or none of ours."""
    raw("unknown-path", CHOSEN, "GET", "/2025-09-09/microvm-imagines")
    slash = arn("ghost").replace("image:", "image/")
    raw("raw-slash-in-arn", RECORDED, "GET", f"{IMAGES}/{slash}")
    raw("list-runtimes", CHOSEN, "GET", "/2026-10-01/runtimes")


STORIES: tuple[Callable[[Recorder], None], ...] = (
    create_image,
    read_image,
    update_image,
    versions,
    builds,
    managed_images,
    run_microvm,
    one_microvm,
    tokens,
    tags,
    delete_image,
    connectors,
    no_operation,
)
