"""Two accounts never see each other's things: every operation, our own endpoints, local AWS."""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from microvmd.api.operations import CORE
from tests.clients.callers import OPERATOR, Key, ask, new_account
from tests.clients.live import REGION, LiveApi

pytestmark = pytest.mark.client

ROLE = "arn:aws:iam::{account}:role/build"


@dataclass(frozen=True)
class Things:
    """Identifiers of one account's things, or of nobody's."""

    image: str
    microvm: str
    connector: str
    build: str

    def blanked(self, text: str) -> str:
        for value in (self.image, self.microvm, self.connector, self.build):
            text = text.replace(value, "<ID>")
        return text


def until(check: Any) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def made_image(client: Any, account: str, name: str, **more: Any) -> str:
    """The ARN of a new image that is CREATED, tagged ``team: a``."""
    arn: str = client.create_microvm_image(
        name=name,
        baseImageArn=f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1",
        buildRoleArn=ROLE.format(account=account),
        codeArtifact={"uri": "s3://bucket/app.zip"},
        tags={"team": "a"},
        **more,
    )["imageArn"]
    until(lambda: client.get_microvm_image(imageIdentifier=arn)["state"] == "CREATED")
    return arn


def connector_request(key: Key, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "ClientToken": name,
        "OperatorRole": ROLE.format(account=key.account),
        "Configuration": {
            "VpcEgressConfiguration": {
                "SubnetIds": ["subnet-12345678"],
                "SecurityGroupIds": [],
                "NetworkProtocol": "IPv4",
                "AssociatedComputeResourceTypes": ["MicroVm"],
            }
        },
        **changes,
    }


@pytest.fixture(scope="module")
def other(api: LiveApi) -> Key:
    return new_account(api, f"other {uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def owned(api: LiveApi) -> Iterator[Things]:
    """Of the default account."""
    client = OPERATOR.client(api, "lambda-microvms")
    name = f"mine-{uuid.uuid4().hex[:8]}"
    arn = made_image(client, OPERATOR.account, name)
    builds = client.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0")["items"]
    microvm = client.run_microvm(imageIdentifier=arn)["microvmId"]
    core = OPERATOR.client(api, "lambda-core")
    connector = core.create_network_connector(**connector_request(OPERATOR, name))
    yield Things(arn, microvm, connector["Id"], builds[0]["buildId"])
    client.terminate_microvm(microvmIdentifier=microvm)


def _nobodys(owned: Things) -> Things:
    image = f"{owned.image.rpartition(':')[0]}:absent"
    return Things(image, f"microvm-{uuid.uuid4()}", f"nc-{uuid.uuid4().hex}", str(uuid.uuid4()))


def test_things_are_still_there_and_in_no_list_of_another(
    api: LiveApi, other: Key, owned: Things
) -> None:
    mine = OPERATOR.client(api, "lambda-microvms")
    assert mine.get_microvm(microvmIdentifier=owned.microvm)["state"] == "RUNNING"
    assert mine.list_tags(Resource=owned.image)["Tags"] == {"team": "a"}
    theirs = other.client(api, "lambda-microvms")
    assert theirs.list_microvms()["items"] == []
    assert theirs.list_microvm_images()["items"] == []
    assert other.client(api, CORE).list_network_connectors()["NetworkConnectors"] == []


def test_a_name_is_free_in_every_account(api: LiveApi, other: Key, owned: Things) -> None:
    name = owned.image.rpartition(":")[2]
    client = other.client(api, "lambda-microvms")
    arn = made_image(client, other.account, name)
    assert arn == f"arn:aws:lambda:{REGION}:{other.account}:microvm-image:{name}"
    assert [i["imageArn"] for i in client.list_microvm_images()["items"]] == [arn]
    client.delete_microvm_image(imageIdentifier=arn)


def test_a_page_token_is_its_accounts(api: LiveApi, other: Key, owned: Things) -> None:
    mine = OPERATOR.client(api, "lambda-microvms")
    second = mine.run_microvm(imageIdentifier=owned.image)["microvmId"]
    token = mine.list_microvms(maxResults=1)["nextToken"]
    with pytest.raises(ClientError) as caught:
        other.client(api, "lambda-microvms").list_microvms(maxResults=1, nextToken=token)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    mine.terminate_microvm(microvmIdentifier=second)


def test_own_endpoints(api: LiveApi, other: Key, owned: Things) -> None:
    absent = _nobodys(owned)
    for path in ("/microvms/{}",):
        asked = ask(api, other, "GET", path.format(owned.microvm))
        expected = ask(api, other, "GET", path.format(absent.microvm))
        assert (asked.status_code, expected.status_code) == (404, 404)
        assert owned.blanked(asked.text) == absent.blanked(expected.text)
    name = owned.image.rpartition(":")[2]
    assert ask(api, other, "GET", f"/logs?group=%2Faws%2Flambda-microvms%2F{name}").text == ""
    for method, path, body in (
        ("GET", "/accounts/{}/users", None),
        ("POST", "/accounts/{}/users", {"name": "x"}),
        ("GET", "/accounts/{}/keys", None),
        ("POST", "/accounts/{}/keys", {"user": "admin"}),
        ("DELETE", f"/accounts/{{}}/keys/{OPERATOR.access_key}", None),
        ("POST", f"/accounts/{{}}/keys/{OPERATOR.access_key}/rotate", {}),
        ("PUT", "/accounts/{}/users/admin/policies/p", {"document": "{}"}),
        ("GET", "/accounts/{}/users/admin/policies", None),
        ("DELETE", "/accounts/{}/users/admin", None),
    ):
        answers = [
            ask(api, other, method, path.format(account), body)
            for account in (OPERATOR.account, "999999999999")
        ]
        assert [answer.status_code for answer in answers] == [403, 403], path
        assert answers[0].text.replace(OPERATOR.account, "999999999999") == answers[1].text
    assert ask(api, other, "POST", "/accounts", {"name": "more"}).status_code == 403
    listed = ask(api, other, "GET", "/accounts").json()["accounts"]
    assert [item["account"] for item in listed] == [other.account]


def _code(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def test_local_aws(api: LiveApi, other: Key) -> None:
    mine, theirs = OPERATOR, other
    bucket = f"mine-{uuid.uuid4().hex[:8]}"
    mine.client(api, "s3").create_bucket(Bucket=bucket)
    mine.client(api, "s3").put_object(Bucket=bucket, Key="k", Body=b"secret")
    s3 = theirs.client(api, "s3")
    assert bucket not in {item["Name"] for item in s3.list_buckets()["Buckets"]}
    for call, arguments in (
        (s3.get_object, {"Bucket": bucket, "Key": "k"}),
        (s3.put_object, {"Bucket": bucket, "Key": "k", "Body": b"x"}),
        (s3.delete_object, {"Bucket": bucket, "Key": "k"}),
        (s3.list_objects_v2, {"Bucket": bucket}),
        (s3.get_bucket_acl, {"Bucket": bucket}),
        (s3.put_bucket_policy, {"Bucket": bucket, "Policy": "{}"}),
        (s3.delete_bucket, {"Bucket": bucket}),
        (s3.copy_object, {"Bucket": bucket, "Key": "x", "CopySource": f"{bucket}/k"}),
    ):
        assert _code(call, **arguments) in ("AccessDenied", "403"), call
    s3.create_bucket(Bucket=f"{bucket}-theirs")
    copied = {"Bucket": f"{bucket}-theirs", "Key": "x", "CopySource": f"{bucket}/k"}
    assert _code(s3.copy_object, **copied) == "AccessDenied"

    mine.client(api, "logs").create_log_group(logGroupName=f"/{bucket}")
    logs = theirs.client(api, "logs")
    assert logs.describe_log_groups(logGroupNamePrefix=f"/{bucket}")["logGroups"] == []
    assert _code(logs.describe_log_streams, logGroupName=f"/{bucket}") == (
        "ResourceNotFoundException"
    )

    key = mine.client(api, "kms").create_key()["KeyMetadata"]
    kms = theirs.client(api, "kms")
    for name in (key["KeyId"], key["Arn"]):
        assert _code(kms.describe_key, KeyId=name) == "NotFoundException"
        assert _code(kms.encrypt, KeyId=name, Plaintext=b"x") == "NotFoundException"
    sealed = mine.client(api, "kms").encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    assert _code(kms.decrypt, CiphertextBlob=sealed)

    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = mine.client(api, "iam").create_role(RoleName=bucket, AssumeRolePolicyDocument=trust)
    assert _code(theirs.client(api, "iam").get_role, RoleName=bucket) == "NoSuchEntity"
    sts = theirs.client(api, "sts")
    for arn in (role["Role"]["Arn"], f"{role['Role']['Arn']}-absent"):
        assert _code(sts.assume_role, RoleArn=arn, RoleSessionName="s") == "AccessDenied"
    assert sts.get_caller_identity()["Arn"] == f"arn:aws:iam::{other.account}:user/admin"


def test_a_client_does_not_choose_its_account(api: LiveApi, other: Key) -> None:
    client = other.client(api, "iam")
    mine = OPERATOR.client(api, "iam")
    name = f"mine-{uuid.uuid4().hex[:8]}"
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    mine.create_role(RoleName=name, AssumeRolePolicyDocument=trust)

    def pretend(request: Any, **_: Any) -> None:
        request.headers["x-moto-account-id"] = OPERATOR.account
        request.headers["X-Moto-Account-Id"] = OPERATOR.account

    client.meta.events.register("before-send", pretend)
    assert _code(client.get_role, RoleName=name) == "NoSuchEntity"
