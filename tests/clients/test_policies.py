"""Restricted users: what every client is told, and that nothing gets them further."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.clients.callers import OPERATOR, Key, allow, ask, attach, new_account, new_user
from tests.clients.live import REGION, LiveApi
from tests.clients.test_accounts import ROLE, made_image

pytestmark = pytest.mark.client

MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"


@pytest.fixture(scope="module")
def admin(api: LiveApi) -> Key:
    return new_account(api, f"policies {uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def image(api: LiveApi, admin: Key) -> str:
    """Tagged ``team: a``."""
    return made_image(admin.client(api, "lambda-microvms"), admin.account, "app")


@pytest.fixture(scope="module")
def microvm(api: LiveApi, admin: Key, image: str) -> Iterator[str]:
    client = admin.client(api, "lambda-microvms")
    microvm_id: str = client.run_microvm(imageIdentifier=image)["microvmId"]
    yield microvm_id
    client.terminate_microvm(microvmIdentifier=microvm_id)


def _name() -> str:
    return f"user-{uuid.uuid4().hex[:8]}"


def _refusal(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-errortype"] == "AccessDeniedException"
    return str(answer["Error"]["Message"])


def test_without_a_policy_nothing(api: LiveApi, admin: Key, image: str, microvm: str) -> None:
    name = _name()
    client = new_user(api, admin, name).client(api, "lambda-microvms")
    arn = f"arn:aws:iam::{admin.account}:user/{name}"
    for call, arguments, action, resource in (
        (client.list_microvms, {}, "ListMicrovms", "*"),
        (client.run_microvm, {"imageIdentifier": image}, "RunMicrovm", image),
        (client.get_microvm, {"microvmIdentifier": microvm}, "GetMicrovm", image),
        (client.delete_microvm_image, {"imageIdentifier": image}, "DeleteMicrovmImage", image),
        (client.list_tags, {"Resource": image}, "ListTags", image),
    ):
        assert _refusal(call, **arguments) == (
            f"User: {arn} is not authorized to perform: lambda:{action} on resource: {resource} "
            f"because no identity-based policy allows the lambda:{action} action"
        )


def test_the_shape_is_judged_before_the_right(api: LiveApi, admin: Key) -> None:
    client = new_user(api, admin, _name()).client(api, "lambda-microvms")
    with pytest.raises(ClientError) as caught:
        client.run_microvm(imageIdentifier="x" * 3000)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_one_image_and_its_connectors(api: LiveApi, admin: Key, image: str) -> None:
    key = new_user(api, admin, "runner", allow("lambda:*Microvm", image))
    client = key.client(api, "lambda-microvms")
    text = _refusal(client.run_microvm, imageIdentifier=image)
    assert f"lambda:PassNetworkConnector on resource: {MANAGED}HTTP_INGRESS because" in text
    passes = allow("lambda:PassNetworkConnector", f"{MANAGED}*")
    attach(api, admin, "runner", allow("lambda:*Microvm", image), passes)
    made = client.run_microvm(imageIdentifier=image)["microvmId"]
    assert client.get_microvm(microvmIdentifier=made)["imageArn"] == image
    absent = f"microvm-{uuid.uuid4()}"
    assert f"microvm:{absent} because" in _refusal(client.get_microvm, microvmIdentifier=absent)
    role = ROLE.format(account=admin.account)
    text = _refusal(client.run_microvm, imageIdentifier=image, executionRoleArn=role)
    assert f"iam:PassRole on resource: {role} because" in text
    client.terminate_microvm(microvmIdentifier=made)
    elsewhere = image.replace(":app", ":absent")
    assert elsewhere in _refusal(client.run_microvm, imageIdentifier=elsewhere)


def test_tags_decide(api: LiveApi, admin: Key, image: str) -> None:
    by_tag = allow(
        "lambda:GetMicrovmImage", StringEquals={"aws:ResourceTag/team": "${aws:username}"}
    )
    mine = new_user(api, admin, "a", by_tag).client(api, "lambda-microvms")
    other = new_user(api, admin, "b", by_tag).client(api, "lambda-microvms")
    assert mine.get_microvm_image(imageIdentifier=image)["imageArn"] == image
    _refusal(other.get_microvm_image, imageIdentifier=image)
    keys = {"ForAllValues:StringEquals": {"aws:TagKeys": ["cost"]}}
    tagger = new_user(api, admin, _name(), allow("lambda:TagResource", **keys))
    client = tagger.client(api, "lambda-microvms")
    client.tag_resource(Resource=image, Tags={"cost": "1"})
    _refusal(client.tag_resource, Resource=image, Tags={"team": "b"})


def test_an_explicit_deny_wins_and_is_told(api: LiveApi, admin: Key, image: str) -> None:
    deny = {"Effect": "Deny", "Action": "lambda:Delete*", "Resource": "*"}
    client = new_user(api, admin, _name(), allow("*"), deny).client(api, "lambda-microvms")
    text = _refusal(client.delete_microvm_image, imageIdentifier=image)
    assert text.endswith(f"on resource: {image} with an explicit deny in an identity-based policy")


def test_a_revoked_key_ends_at_the_next_request(api: LiveApi, admin: Key, image: str) -> None:
    name = _name()
    key = new_user(api, admin, name, allow("lambda:List*"))
    client = key.client(api, "lambda-microvms")
    (listed,) = client.list_microvm_images()["items"]
    assert listed["imageArn"] == image
    path = f"/accounts/{admin.account}/keys"
    rotated = ask(api, admin, "POST", f"{path}/{key.access_key}/rotate", {"overlap": 60}).json()
    assert (rotated["old"]["state"], rotated["key"]["state"]) == ("ENDING", "ACTIVE")
    assert client.list_microvm_images()["items"]
    new = Key(rotated["key"]["access_key"], rotated["key"]["secret"], admin.account)
    assert new.client(api, "lambda-microvms").list_microvm_images()["items"]
    listed = ask(api, admin, "GET", f"{path}?user={name}").json()["keys"]
    assert all(item["last_used_at"] and "sealed" not in item for item in listed)
    assert ask(api, admin, "DELETE", f"{path}/{key.access_key}").status_code == 200
    with pytest.raises(ClientError) as caught:
        client.list_microvm_images()
    assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"


def test_a_bad_policy_is_refused_where_it_is_attached(api: LiveApi, admin: Key) -> None:
    name = _name()
    new_user(api, admin, name)
    path = f"/accounts/{admin.account}/users/{name}/policies/p"
    for document in ("", "{", "[]", '{"Statement": {"Effect": "Allow"}}', "\x00", "[" * 9999):
        answer = ask(api, admin, "PUT", path, {"document": document})
        assert answer.status_code == 400, document
        assert answer.json()["message"]
    assert ask(api, admin, "PUT", path, {"document": {}}).status_code == 400
    assert ask(api, admin, "PUT", path).status_code == 400


def test_local_services_are_judged_too(api: LiveApi, admin: Key) -> None:
    bucket = f"judged-{uuid.uuid4().hex[:8]}"
    admin.client(api, "s3").create_bucket(Bucket=bucket)
    reads = allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{bucket}/mine/*")
    key = new_user(api, admin, _name(), reads, allow("s3:ListBucket", f"arn:aws:s3:::{bucket}"))
    s3 = key.client(api, "s3")
    s3.put_object(Bucket=bucket, Key="mine/k", Body=b"x")
    assert s3.get_object(Bucket=bucket, Key="mine/k")["Body"].read() == b"x"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    for service, call, arguments in (
        ("s3", "get_object", {"Bucket": bucket, "Key": "other"}),
        ("s3", "get_object", {"Bucket": bucket, "Key": "mine/../other"}),
        ("s3", "delete_object", {"Bucket": bucket, "Key": "mine/k"}),
        ("s3", "copy_object", {"Bucket": bucket, "Key": "mine/c", "CopySource": f"{bucket}/o"}),
        ("s3", "list_buckets", {}),
        ("logs", "describe_log_groups", {}),
        ("kms", "list_keys", {}),
        ("iam", "list_roles", {}),
        ("iam", "create_user", {"UserName": "x"}),
        ("sts", "get_federation_token", {"Name": "x"}),
    ):
        with pytest.raises(ClientError) as caught:
            getattr(key.client(api, service), call)(**arguments)
        assert caught.value.response["Error"]["Code"].startswith("AccessDenied"), call


def _trust(principal: str) -> str:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_no_session_is_more_than_what_was_given(api: LiveApi, admin: Key, image: str) -> None:
    name, role = _name(), f"role-{uuid.uuid4().hex[:8]}"
    arn = f"arn:aws:iam::{admin.account}:role/{role}"
    iam = admin.client(api, "iam")
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=_trust("arn:aws:iam::1:root"))
    everything = json.dumps({"Version": "2012-10-17", "Statement": [allow("*")]})
    iam.put_role_policy(RoleName=role, PolicyName="all", PolicyDocument=everything)
    key = new_user(api, admin, name, allow("lambda:ListMicrovms"))
    sts = key.client(api, "sts")

    def assumed(**options: Any) -> dict[str, str]:
        found = sts.assume_role(RoleArn=arn, RoleSessionName="s", **options)["Credentials"]
        return {
            "aws_access_key_id": found["AccessKeyId"],
            "aws_secret_access_key": found["SecretAccessKey"],
            "aws_session_token": found["SessionToken"],
        }

    def code(call: Any, **arguments: Any) -> str:
        with pytest.raises(ClientError) as caught:
            call(**arguments)
        return str(caught.value.response["Error"]["Code"])

    # Neither without a right to it, nor with a right to it but without the role's trust.
    assert code(assumed) == "AccessDenied"
    attach(api, admin, name, allow("lambda:ListMicrovms"), allow("sts:AssumeRole"))
    assert code(assumed) == "AccessDenied"
    # A role that nobody made is no way around: its session may no more than who assumed it.
    absent = sts.assume_role(RoleArn=f"{arn}-absent", RoleSessionName="s")["Credentials"]
    options = {
        "aws_access_key_id": absent["AccessKeyId"],
        "aws_secret_access_key": absent["SecretAccessKey"],
        "aws_session_token": absent["SessionToken"],
    }
    assert code(api.client("s3", **options).list_buckets) == "AccessDenied"
    assert code(api.client("lambda-microvms", **options).list_microvms) == "AccessDeniedException"
    # With both, the session is the role's, and a session policy narrows it.
    iam.update_assume_role_policy(
        RoleName=role, PolicyDocument=_trust(f"arn:aws:iam::{admin.account}:user/{name}")
    )
    session = assumed()
    (listed,) = api.client("lambda-microvms", **session).list_microvm_images()["items"]
    assert listed["imageArn"] == image
    identity = api.client("sts", **session).get_caller_identity()
    assert identity["Arn"] == f"arn:aws:sts::{admin.account}:assumed-role/{role}/s"
    narrow = assumed(Policy=json.dumps({"Statement": [allow("lambda:ListMicrovms")]}))
    text = _refusal(api.client("lambda-microvms", **narrow).list_microvm_images)
    assert "because no session policy allows the lambda:ListMicrovmImages action" in text
    assert code(assumed, Policy="{") == "MalformedPolicyDocument"
    iam.delete_role_policy(RoleName=role, PolicyName="all")
    _refusal(api.client("lambda-microvms", **session).list_microvm_images)
    # The session of a key ends with the key.
    assert (
        ask(api, admin, "DELETE", f"/accounts/{admin.account}/keys/{key.access_key}").status_code
        == 200
    )
    with pytest.raises(ClientError) as caught:
        api.client("lambda-microvms", **session).list_microvm_images()
    assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"


def test_a_users_own_session_is_that_user(api: LiveApi, admin: Key) -> None:
    name = _name()
    key = new_user(api, admin, name, allow("lambda:ListMicrovms"))
    found = key.client(api, "sts").get_session_token()["Credentials"]
    options = {
        "aws_access_key_id": found["AccessKeyId"],
        "aws_secret_access_key": found["SecretAccessKey"],
        "aws_session_token": found["SessionToken"],
    }
    client = api.client("lambda-microvms", **options)
    client.list_microvms()
    assert f"user/{name} is not authorized" in _refusal(client.list_microvm_images)


def test_a_restricted_user_manages_nobody(api: LiveApi, admin: Key) -> None:
    key = new_user(api, admin, _name(), allow("lambda:*"))
    base = f"/accounts/{admin.account}"
    for method, path, body in (
        ("GET", f"{base}/users", None),
        ("GET", f"{base}/keys", None),
        ("POST", f"{base}/keys", {"user": "admin"}),
        ("DELETE", f"{base}/keys/{admin.access_key}", None),
        ("PUT", f"{base}/users/admin/policies/p", {"document": "{}"}),
        ("DELETE", f"{base}/users/admin", None),
        ("GET", "/accounts", None),
    ):
        answer = ask(api, key, method, path, body)
        assert answer.status_code == 403, path
        assert answer.headers["x-amzn-errortype"] == "AccessDeniedException"


def test_the_aws_cli_shows_the_refusal(api: LiveApi, admin: Key, tmp_path: Path) -> None:
    key = new_user(api, admin, "cli")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": api.url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": key.access_key,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_MAX_ATTEMPTS": "1",
    }
    program = str(Path(sys.executable).parent / "aws")
    done = subprocess.run(
        [program, "lambda-microvms", "list-microvms"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert (
        "(AccessDeniedException) when calling the ListMicrovms operation: "
        f"User: arn:aws:iam::{admin.account}:user/cli is not authorized to perform: "
        "lambda:ListMicrovms on resource: * because no identity-based policy allows the "
        "lambda:ListMicrovms action"
    ) in done.stderr


def test_the_operator_manages_every_account(api: LiveApi, admin: Key) -> None:
    name = _name()
    path = f"/accounts/{admin.account}/users"
    assert ask(api, OPERATOR, "POST", path, {"name": name}).status_code == 200
    assert name in {user["name"] for user in ask(api, admin, "GET", path).json()["users"]}
    assert ask(api, OPERATOR, "DELETE", f"{path}/{name}").status_code == 200
