"""Which rights a request of another service needs: as its clients send it, and bent by hand."""

from dataclasses import replace
from typing import Any

import pytest
from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ServiceModel
from hypothesis import given
from hypothesis import strategies as st

from microvmd.api.local.actions import ForeignRequest, asked_of
from microvmd.api.signed import SignedRequest
from microvmd.model.errors import AccessDenied
from tests.unit.api.local.requests import ACCOUNT, REGION, made, raw

LOGS = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:"
KMS = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/"
IAM = f"arn:aws:iam::{ACCOUNT}:"


def rights(request: ForeignRequest) -> list[tuple[str, str | None]]:
    return [(asked.action, asked.resource) for asked in asked_of(request)]


@pytest.mark.parametrize(
    ("operation", "parameters", "action", "resource"),
    [
        ("list_buckets", {}, "ListAllMyBuckets", "*"),
        ("create_bucket", {"Bucket": "b"}, "CreateBucket", "arn:aws:s3:::b"),
        ("head_bucket", {"Bucket": "b"}, "ListBucket", "arn:aws:s3:::b"),
        ("list_objects", {"Bucket": "b"}, "ListBucket", "arn:aws:s3:::b"),
        ("list_objects_v2", {"Bucket": "b", "Prefix": "p"}, "ListBucket", "arn:aws:s3:::b"),
        ("delete_bucket", {"Bucket": "b"}, "DeleteBucket", "arn:aws:s3:::b"),
        ("get_bucket_acl", {"Bucket": "b"}, "GetBucketAcl", "arn:aws:s3:::b"),
        ("get_object", {"Bucket": "b", "Key": "k"}, "GetObject", "arn:aws:s3:::b/k"),
        ("head_object", {"Bucket": "b", "Key": "a b/ü"}, "GetObject", "arn:aws:s3:::b/a b/ü"),
        ("put_object", {"Bucket": "b", "Key": "k"}, "PutObject", "arn:aws:s3:::b/k"),
        ("delete_object", {"Bucket": "b", "Key": "k"}, "DeleteObject", "arn:aws:s3:::b/k"),
        ("get_object_acl", {"Bucket": "b", "Key": "k"}, "GetObjectAcl", "arn:aws:s3:::b/k"),
        (
            "upload_part",
            {"Bucket": "b", "Key": "k", "UploadId": "u", "PartNumber": 1},
            "PutObject",
            "arn:aws:s3:::b/k",
        ),
        (
            "put_bucket_lifecycle_configuration",
            {"Bucket": "b", "LifecycleConfiguration": {"Rules": []}},
            "PutLifecycleConfiguration",
            "arn:aws:s3:::b",
        ),
        (
            "put_bucket_notification_configuration",
            {"Bucket": "b", "NotificationConfiguration": {}},
            "PutBucketNotification",
            "arn:aws:s3:::b",
        ),
        (
            "delete_objects",
            {"Bucket": "b", "Delete": {"Objects": [{"Key": "k"}]}},
            "DeleteObject",
            None,
        ),
    ],
)
def test_s3(operation: str, parameters: dict[str, Any], action: str, resource: str | None) -> None:
    assert rights(made("s3", operation, **parameters)) == [(f"s3:{action}", resource)]


def test_a_copy_needs_a_right_to_its_source() -> None:
    for source, read in (
        ("other/k", "arn:aws:s3:::other/k"),
        ({"Bucket": "other", "Key": "a b/ü"}, "arn:aws:s3:::other/a b/ü"),
        ("other/../b/k", None),
    ):
        request = made("s3", "copy_object", Bucket="b", Key="k", CopySource=source)
        assert rights(request) == [
            ("s3:PutObject", "arn:aws:s3:::b/k"),
            ("s3:GetObject", read),
        ]


_S3 = ServiceModel(Loader().load_service_model("s3", "service-2"), "s3")
# Two names of one request: the older one is told.
_SAME = {
    "GetBucketLifecycleConfiguration": "GetBucketLifecycle",
    "PutBucketLifecycleConfiguration": "PutBucketLifecycle",
    "GetBucketNotificationConfiguration": "GetBucketNotification",
    "PutBucketNotificationConfiguration": "PutBucketNotification",
    "ListDirectoryBuckets": "ListBuckets",
}
_ELSEWHERE = {"WriteGetObjectResponse"}
"""Goes to a host of its own."""


@pytest.mark.parametrize("name", sorted(set(_S3.operation_names) - _ELSEWHERE))
def test_every_operation_of_s3_is_told_apart(name: str) -> None:
    """None may pass for another: a right to read must not let a write through."""
    given_: dict[str, Any] = {"Bucket": "b", "Key": "k", "CopySource": "b/c", "UploadId": "u"}
    shape = _S3.operation_model(name).input_shape
    wanted = shape.required_members if shape is not None else ()
    parameters = {member: given_.get(member, 1) for member in wanted if member in given_}
    for member in set(wanted) - set(given_):
        parameters[member] = _value(shape.members[member]) if shape is not None else None
    assert made("s3", xform_name(name), **parameters).action in (_SAME.get(name, name), "")


def _value(shape: Any) -> Any:
    match shape.type_name:
        case "structure":
            return {}
        case "list":
            return []
        case "integer" | "long":
            return 1
        case "timestamp":
            return "2026-01-01T00:00:00Z"
    return shape.enum[0] if getattr(shape, "enum", None) else "x"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/b/../c/k", ""),
        ("/b/./k", ""),
        ("//b/k", ""),
        ("/b/%2e%2e/c", ""),
        ("/b/k", "acl&tagging"),
    ],
)
def test_what_could_mean_two_things_is_not_told(path: str, query: str) -> None:
    """No statement but one on everything allows it."""
    [(_, resource)] = rights(raw("s3", "GET", path, query))
    assert resource is None


@pytest.mark.parametrize(
    ("service", "operation", "parameters", "action", "resource"),
    [
        ("iam", "get_role", {"RoleName": "r"}, "GetRole", f"{IAM}role/r"),
        ("iam", "create_user", {"UserName": "u"}, "CreateUser", f"{IAM}user/u"),
        ("iam", "list_roles", {}, "ListRoles", "*"),
        ("iam", "create_policy", {"PolicyName": "p"}, "CreatePolicy", f"{IAM}policy/p"),
        ("iam", "get_policy", {"PolicyArn": f"{IAM}policy/p"}, "GetPolicy", f"{IAM}policy/p"),
        (
            "iam",
            "attach_role_policy",
            {"RoleName": "r", "PolicyArn": f"{IAM}policy/p"},
            "AttachRolePolicy",
            f"{IAM}role/r",
        ),
        ("iam", "add_user_to_group", {"UserName": "u", "GroupName": "g"}, "AddUserToGroup", None),
        ("iam", "create_account_alias", {"AccountAlias": "a"}, "CreateAccountAlias", None),
        ("sts", "get_caller_identity", {}, "GetCallerIdentity", None),
        ("sts", "assume_role", {"RoleArn": f"{IAM}role/r"}, "AssumeRole", f"{IAM}role/r"),
        (
            "sts",
            "get_federation_token",
            {"Name": "n"},
            "GetFederationToken",
            f"arn:aws:sts::{ACCOUNT}:federated-user/n",
        ),
        ("logs", "describe_log_groups", {}, "DescribeLogGroups", "*"),
        ("logs", "create_log_group", {"logGroupName": "/g"}, "CreateLogGroup", f"{LOGS}/g:*"),
        (
            "logs",
            "put_log_events",
            {"logGroupName": "/g", "logStreamName": "s"},
            "PutLogEvents",
            f"{LOGS}/g:log-stream:s",
        ),
        (
            "logs",
            "create_log_stream",
            {"logGroupName": "/g", "logStreamName": "s"},
            "CreateLogStream",
            f"{LOGS}/g:*",
        ),
        (
            "logs",
            "filter_log_events",
            {"logGroupIdentifier": f"{LOGS}/g:*"},
            "FilterLogEvents",
            f"{LOGS}/g:*",
        ),
        ("logs", "start_query", {"logGroupNames": ["/g"]}, "StartQuery", None),
        ("kms", "create_key", {}, "CreateKey", "*"),
        ("kms", "encrypt", {"KeyId": "k"}, "Encrypt", f"{KMS}k"),
        ("kms", "encrypt", {"KeyId": f"{KMS}k"}, "Encrypt", f"{KMS}k"),
        ("kms", "encrypt", {"KeyId": "alias/a"}, "Encrypt", None),
        ("kms", "encrypt", {"KeyId": f"{KMS[:-4]}alias/a"}, "Encrypt", None),
        ("kms", "decrypt", {"CiphertextBlob": b"x"}, "Decrypt", None),
    ],
)
def test_other_services(
    service: str, operation: str, parameters: dict[str, Any], action: str, resource: str | None
) -> None:
    assert rights(made(service, operation, **parameters)) == [(f"{service}:{action}", resource)]


def test_what_is_not_told_has_no_resource() -> None:
    assert rights(raw("ec2")) == [("ec2:Unknown", None)]
    for body in (b"", b"[]", b"{", b"[" * 100_000, b'{"KeyId": 7}'):
        assert rights(raw("kms", body=body, x_amz_target="TrentService.Encrypt")) == [
            ("kms:Encrypt", None)
        ]
    twice = raw("logs", body=b"{}")
    headers = (("x-amz-target", "Logs.A"), ("x-amz-target", "Logs.DescribeLogGroups"))
    bent = ForeignRequest("logs", REGION, ACCOUNT, _with(twice, headers), "/", b"{}")
    assert rights(bent) == [("logs:", None)]


def _with(request: ForeignRequest, headers: tuple[tuple[str, str], ...]) -> SignedRequest:
    return replace(request.signed, headers=headers)


def test_a_parameter_given_twice_is_refused() -> None:
    """One reader could take the first, another the last."""
    for request in (
        raw("iam", query="Action=ListRoles", body=b"Action=DeleteRole&RoleName=r"),
        raw("sts", body=b"Action=AssumeRole&RoleArn=a&RoleArn=b"),
    ):
        with pytest.raises(AccessDenied, match="is given twice"):
            rights(request)


_TEXT = st.text(st.characters(codec="ascii"), max_size=30)


@given(st.sampled_from(["s3", "iam", "sts", "logs", "kms"]), _TEXT, _TEXT, st.binary(max_size=60))
def test_hostile_requests_are_told_or_refused(
    service: str, path: str, query: str, body: bytes
) -> None:
    request = raw(service, "GET", f"/{path}", query, body, x_amz_target=query)
    try:
        found = rights(request)
    except AccessDenied:
        return
    assert all(action.startswith(f"{service}:") for action, _ in found)
