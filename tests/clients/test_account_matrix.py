"""The matrix: every operation with everything by which it could name another account's thing.

Each request is good but for one member, which names a thing of another account; its answer must be
that for a thing that nobody has, in status, headers and every byte but the name itself. Members are
sorted into those that name something and those that do not, so that one that is new in the model,
in a new operation or an old one, fails here until it has a row.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from microvmd.api.operations import CORE, MICROVMS, Operation, load_operations
from tests.clients.callers import OPERATOR, Key, new_account
from tests.clients.live import REGION, LiveApi
from tests.clients.test_accounts import ROLE, connector_request, made_image, until

pytestmark = pytest.mark.client

NAMING: dict[str, tuple[str, ...]] = {
    "imageIdentifier": ("image", "image_name"),
    "Resource": ("image", "connector_arn"),
    "microvmIdentifier": ("microvm",),
    "buildId": ("build",),
    "Identifier": ("connector", "connector_arn", "connector_version", "connector_name"),
    "egressNetworkConnectors": ("connector", "connector_arn", "connector_version"),
    "ingressNetworkConnectors": ("connector", "connector_arn"),
    "nameFilter": ("image_name",),
    "nextToken": ("page",),
    "Marker": ("page",),
}
"""Members that name things, and the attributes of ``Things`` that can stand there."""
PAGES = {
    "ListMicrovms": "microvm_page",
    "ListMicrovmImages": "image_page",
    "ListMicrovmImageVersions": "version_page",
    # A version has one build, and so no second page.
    "ListMicrovmImageBuilds": "version_page",
    "ListNetworkConnectors": "connector_page",
    "ListNetworkConnectorVersions": "connector_version_page",
}
OTHERWISE = {
    "clientToken": "test_a_client_token_is_its_accounts",
    "ClientToken": "test_a_client_token_is_its_accounts",
    "name": "test_accounts.test_a_name_is_free_in_every_account",
    "Name": "test_accounts.test_a_name_is_free_in_every_account",
    "baseImageArn": "test_an_image_is_no_base_of_anybody",
    # What these name lies with STS, S3, KMS and logs, which are asked as the caller's own roles.
    "buildRoleArn": "test_accounts.test_local_aws",
    "executionRoleArn": "test_accounts.test_local_aws",
    "OperatorRole": "test_accounts.test_local_aws",
    "codeArtifact": "test_accounts.test_local_aws",
    "kmsKeyIdentifier": "test_accounts.test_local_aws",
    "logging": "test_accounts.test_local_aws",
}
"""Members that name something, each tried by a test of its own."""
NAMELESS = {
    *("additionalOsCapabilities", "allowedPorts", "architecture", "baseImageVersion", "chipset"),
    *("chipsetGeneration", "Configuration", "cpuConfigurations", "description"),
    *("environmentVariables", "expirationInMinutes", "hooks", "idlePolicy", "imageVersion"),
    *("MaxItems", "maxResults", "maximumDurationInSeconds", "resources", "runHookPayload"),
    *("State", "status", "TagKeys", "Tags", "tags"),
}
"""Members that say how, how many or which version, and name nothing."""
SHARED = {"ListManagedMicrovmImages", "ListManagedMicrovmImageVersions"}
"""Operations on things of the platform, which are the same for all."""
OPERATIONS = [o for o in load_operations() if "Runtime" not in o.name and o.input is not None]


@dataclass(frozen=True)
class Things:
    """Identifiers of one account's things, or of nobody's."""

    image: str
    image_name: str
    microvm: str
    build: str
    connector: str
    connector_arn: str
    connector_version: str
    connector_name: str
    microvm_page: str
    image_page: str
    version_page: str
    connector_page: str
    connector_version_page: str

    def blanked(self, text: str) -> str:
        """The text without any of them, the longest first."""
        for value in sorted((getattr(self, f.name) for f in fields(self)), key=len, reverse=True):
            text = text.replace(value, "<ID>")
        return text


def things(api: LiveApi, key: Key) -> Things:
    """One of everything, and two of what is listed, so that there is a second page."""
    client, core = key.client(api, MICROVMS), key.client(api, CORE)
    name = f"mine-{uuid.uuid4().hex[:8]}"
    made_image(client, key.account, f"{name}-2")
    image = made_image(client, key.account, name)
    build = client.list_microvm_image_builds(imageIdentifier=image, imageVersion="1.0")["items"][0]
    microvm = [client.run_microvm(imageIdentifier=image)["microvmId"] for _ in range(2)][1]
    new_version(client, key.account, image)
    core.create_network_connector(**connector_request(key, f"{name}-2"))
    asked = connector_request(key, name)
    made = core.create_network_connector(**asked)
    asked["Configuration"]["VpcEgressConfiguration"]["SubnetIds"] = ["subnet-87654321"]
    until(lambda: core.get_network_connector(Identifier=made["Id"])["State"] == "ACTIVE")
    core.update_network_connector(Identifier=made["Id"], Configuration=asked["Configuration"])
    versions = {"Identifier": made["Id"], "MaxItems": 1}
    return Things(
        image=image,
        image_name=name,
        microvm=microvm,
        build=build["buildId"],
        connector=made["Id"],
        connector_arn=made["Arn"],
        connector_version=f"{made['Arn']}:1",
        connector_name=name,
        microvm_page=client.list_microvms(maxResults=1)["nextToken"],
        image_page=client.list_microvm_images(maxResults=1)["nextToken"],
        version_page=client.list_microvm_image_versions(imageIdentifier=image, maxResults=1)[
            "nextToken"
        ],
        connector_page=core.list_network_connectors(MaxItems=1)["NextMarker"],
        connector_version_page=core.list_network_connector_versions(**versions)["NextMarker"],
    )


def new_version(client: Any, account: str, image: str, **more: Any) -> Any:
    return client.update_microvm_image(
        imageIdentifier=image,
        baseImageArn=f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        buildRoleArn=ROLE.format(account=account),
        codeArtifact={"uri": "s3://bucket/app.zip"},
        **more,
    )


def nobodys(owned: Things) -> Things:
    """As long as the real ones, so that not even a length tells them apart."""
    name = f"mine-{uuid.uuid4().hex[:8]}"
    connector = owned.connector[:-12] + uuid.uuid4().hex[:12]
    arn = owned.connector_arn.replace(owned.connector, connector)
    return Things(
        image=owned.image.replace(owned.image_name, name),
        image_name=name,
        microvm=f"microvm-{uuid.uuid4()}",
        build=str(uuid.uuid4()),
        connector=connector,
        connector_arn=arn,
        connector_version=f"{arn}:1",
        connector_name=name,
        **{page: _changed(getattr(owned, page)) for page in set(PAGES.values())},
    )


def _changed(token: str) -> str:
    """In the middle: the first letter may be a version, and the last one may not count."""
    at = len(token) // 2
    return f"{token[:at]}{'A' if token[at] != 'A' else 'B'}{token[at + 1 :]}"


@pytest.fixture(scope="module")
def other(api: LiveApi) -> Key:
    return new_account(api, f"other {uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def owned(api: LiveApi) -> Things:
    """Of the account that is attacked."""
    return things(api, new_account(api, f"owner {uuid.uuid4().hex[:8]}"))


@pytest.fixture(scope="module")
def own(api: LiveApi, other: Key) -> Things:
    """Of the account that attacks: what its requests are good with."""
    return things(api, other)


def cases() -> Iterator[Any]:
    for operation in OPERATIONS:
        if operation.name in SHARED:
            continue
        assert operation.input is not None
        for member in operation.input.members:
            for form in NAMING.get(member, ()):
                what = PAGES[operation.name] if form == "page" else form
                name = f"{operation.name}-{member}-{what}"
                yield pytest.param(operation, member, what, id=name)


def request(operation: Operation, mine: Things, account: str, **changes: Any) -> dict[str, Any]:
    """A good request with nothing but what is needed, and ``changes``."""
    given: dict[str, Any] = {
        "imageIdentifier": mine.image,
        "microvmIdentifier": mine.microvm,
        "Identifier": mine.connector,
        "Resource": mine.image,
        "buildId": mine.build,
        "imageVersion": "1.0",
        "status": "INACTIVE",
        "expirationInMinutes": 5,
        "allowedPorts": [{"allPorts": {}}],
        "Tags": {"a": "b"},
        "TagKeys": ["team"],
        "name": f"new-{uuid.uuid4().hex[:8]}",
        "baseImageArn": f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        "buildRoleArn": ROLE.format(account=account),
        "codeArtifact": {"uri": "s3://bucket/app.zip"},
    }
    assert operation.input is not None
    needed = {name: given[name] for name in operation.input.required_members if name in given}
    return needed | changes


def answered(
    api: LiveApi, key: Key, operation: Operation, request: dict[str, Any]
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body; what is different in every answer is left out."""
    client = key.client(api, operation.service)
    try:
        answer = getattr(client, xform_name(operation.name))(**request)
    except ClientError as error:
        answer = error.response
    metadata = answer.pop("ResponseMetadata")
    headers = {
        name: value
        for name, value in metadata["HTTPHeaders"].items()
        if name not in ("date", "x-amzn-requestid")
    }
    return metadata["HTTPStatusCode"], headers, answer


@pytest.mark.parametrize(("operation", "member", "form"), list(cases()))
def test_what_another_account_has_is_what_nobody_has(
    api: LiveApi,
    other: Key,
    owned: Things,
    own: Things,
    operation: Operation,
    member: str,
    form: str,
) -> None:
    absent = nobodys(owned)
    seen = []
    for named in (owned, absent):
        value: Any = getattr(named, form)
        value = [value] if member.endswith("Connectors") else value
        wanted = request(operation, own, other.account, **{member: value})
        status, headers, body = answered(api, other, operation, wanted)
        seen.append((status, headers, named.blanked(json.dumps(body, default=str))))
    assert seen[0] == seen[1]
    status, _, text = seen[0]
    body = json.loads(text)
    listed = body.get("items", body.get("NetworkConnectors", []))
    assert status >= 400 or not listed, "a request on what does not exist succeeded"


def test_every_member_has_a_row() -> None:
    members = {m for o in OPERATIONS if o.input is not None for m in o.input.members}
    rows = NAMING.keys() | OTHERWISE.keys() | NAMELESS
    assert members - rows == set(), "does it name a thing? Give it a row in NAMING, if it does"
    assert rows - members == set(), "no operation has such a member"
    assert not NAMING.keys() & OTHERWISE.keys()
    assert not NAMELESS & (NAMING.keys() | OTHERWISE.keys())


def test_every_operation_has_a_row() -> None:
    """Those that name nothing but by a member with a test of its own."""
    named = {case.values[0].name for case in cases()}
    left = {operation.name for operation in OPERATIONS} - named - SHARED
    assert left == {"CreateNetworkConnector"}
    assert len(OPERATIONS) == 30


def test_the_matrix_would_see_a_leak(api: LiveApi) -> None:
    """With the defence off, that is for the owner itself, a thing is not what nobody has."""
    mine, get = things(api, OPERATOR), _named("GetMicrovm")
    with pytest.raises(AssertionError):
        test_what_another_account_has_is_what_nobody_has(
            api, OPERATOR, mine, mine, get, "microvmIdentifier", "microvm"
        )


def _named(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.name == name)


def test_what_was_attacked_is_unchanged(api: LiveApi, other: Key, own: Things) -> None:
    """All of the matrix again in one go on things of this test's own; then the owner looks."""
    victim = new_account(api, f"victim {uuid.uuid4().hex[:8]}")
    attacked = things(api, victim)
    client, core = victim.client(api, MICROVMS), victim.client(api, CORE)

    def state() -> str:
        found = [
            client.get_microvm(microvmIdentifier=attacked.microvm),
            client.get_microvm_image(imageIdentifier=attacked.image),
            client.list_microvm_image_versions(imageIdentifier=attacked.image)["items"],
            client.list_tags(Resource=attacked.image)["Tags"],
            client.list_tags(Resource=attacked.connector_arn)["Tags"],
            core.get_network_connector(Identifier=attacked.connector),
            client.list_microvms()["items"],
            core.list_network_connectors()["NetworkConnectors"],
        ]
        for item in found:
            if isinstance(item, dict):
                item.pop("ResponseMetadata", None)
        return json.dumps(found, default=str)

    before = state()
    for case in cases():
        operation, member, form = case.values
        value: Any = getattr(attacked, form)
        value = [value] if member.endswith("Connectors") else value
        wanted = request(operation, own, other.account, **{member: value})
        answered(api, other, operation, wanted)
    assert state() == before


def test_a_client_token_is_its_accounts(api: LiveApi, other: Key, own: Things) -> None:
    """The token of another account makes a new thing, never the other's again."""
    owner = new_account(api, f"tokens {uuid.uuid4().hex[:8]}")
    token = uuid.uuid4().hex
    made = {}
    for key in (owner, other):
        client, core = key.client(api, MICROVMS), key.client(api, CORE)
        image = made_image(client, key.account, f"t-{token[:8]}", clientToken=token)
        microvm = client.run_microvm(imageIdentifier=image, clientToken=token)
        connector = core.create_network_connector(
            **connector_request(key, f"t-{token[:8]}", ClientToken=token)
        )
        version = new_version(client, key.account, image, clientToken=f"{token}u")
        made[key.account] = {
            image,
            microvm["microvmId"],
            microvm["endpoint"],
            connector["Id"],
            version["imageArn"],
        }
        # A replay is the account's own.
        again = client.run_microvm(imageIdentifier=image, clientToken=token)
        assert again["microvmId"] == microvm["microvmId"]
    assert not made[owner.account] & made[other.account]


def test_an_image_is_no_base_of_anybody(api: LiveApi, other: Key, owned: Things) -> None:
    absent = nobodys(owned)
    create = _named("CreateMicrovmImage")
    seen = []
    for named in (owned, absent):
        wanted = request(create, owned, other.account, baseImageArn=named.image)
        status, headers, body = answered(api, other, create, wanted)
        seen.append((status, headers, named.blanked(json.dumps(body, default=str))))
    assert seen[0] == seen[1]
    assert seen[0][0] >= 400
