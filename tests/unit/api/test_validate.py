"""Every constraint kind of the model, with the recorded texts."""

from typing import Any

import pytest

from microvmd.api.operations import Operation
from microvmd.api.validate import compile_pattern, java_order, validate
from microvmd.model.errors import ValidationError

_ROLE = "arn:aws:iam::123456789012:role/build"
_IMAGE = {
    "name": "web",
    "baseImageArn": "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1",
    "buildRoleArn": _ROLE,
    "codeArtifact": {"uri": "s3://bucket/key.zip"},
}
_RUN = {"imageIdentifier": "x"}
_TAGS = r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)"
_NULL = "failed to satisfy constraint: Member must not be null"


def _message(operation: Operation, request: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        validate(operation.input, request)
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "request_", "text"),
    [
        ("RunMicrovm", {}, f"Value null at 'imageIdentifier' {_NULL}"),
        (
            "RunMicrovm",
            _RUN | {"idlePolicy": {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 0}},
            f"Value null at 'idlePolicy.autoResumeEnabled' {_NULL}",
        ),
        (
            "RunMicrovm",
            _RUN | {"runHookPayload": "x" * 4097},
            "Value at 'runHookPayload' failed to satisfy constraint: "
            "Member must have length less than or equal to 4096",
        ),
        (
            "RunMicrovm",
            _RUN | {"maximumDurationInSeconds": 28801},
            "Value '28801' at 'maximumDurationInSeconds' failed to satisfy constraint: "
            "Member must have value less than or equal to 28800",
        ),
        (
            "ListMicrovms",
            {"maxResults": 0},
            "Value '0' at 'maxResults' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1",
        ),
        (
            "GetMicrovm",
            {"microvmIdentifier": ""},
            "Value '' at 'microvmIdentifier' failed to satisfy constraint: "
            "Member must have length greater than or equal to 1",
        ),
        (
            "CreateMicrovmImage",
            _IMAGE | {"name": "a b"},
            "Value 'a b' at 'name' failed to satisfy constraint: "
            "Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+",
        ),
        (
            "CreateMicrovmImage",
            _IMAGE | {"cpuConfigurations": [{"architecture": "ARM_64"}, {"architecture": "VAX"}]},
            "Value 'VAX' at 'cpuConfigurations.2.member.architecture' failed to satisfy "
            "constraint: Member must satisfy enum value set: [ARM_64, X86_64]",
        ),
        (
            "CreateMicrovmImage",
            _IMAGE | {"additionalOsCapabilities": ["ALL", "SOME"]},
            "Value '[ALL, SOME]' at 'additionalOsCapabilities' failed to satisfy constraint: Member"
            " must satisfy constraint: [Member must satisfy enum value set: [ALL], Member must not "
            "be null]",
        ),
        (
            "CreateMicrovmImage",
            _IMAGE | {"tags": {"a!": "1"}},
            "Value '{a!=1}' at 'tags' failed to satisfy constraint: Map keys must satisfy "
            "constraint: [Member must have length less than or equal to 128, Member must have "
            "length greater than or equal to 1, Member must satisfy regular expression pattern: "
            f"{_TAGS}, Member must not be null]",
        ),
        (
            "CreateMicrovmImage",
            _IMAGE | {"environmentVariables": {"KEY": "x" * 4097}},
            "Value at 'environmentVariables' failed to satisfy constraint: Map value must satisfy "
            "constraint: [Member must have length less than or equal to 4096, Member must have "
            "length greater than or equal to 0, Member must not be null]",
        ),
        (
            "CreateMicrovmImage",
            _IMAGE | {"codeArtifact": {}},
            "Value at 'codeArtifact' failed to satisfy constraint: Exactly one of [uri] must be "
            "set",
        ),
        (
            "CreateMicrovmAuthToken",
            {
                "microvmIdentifier": "x",
                "expirationInMinutes": 1,
                "allowedPorts": [{"port": 80}, {"port": 0}],
            },
            "Value '0' at 'allowedPorts.2.member.port' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1",
        ),
        (
            "CreateMicrovmAuthToken",
            {"microvmIdentifier": "x", "expirationInMinutes": 1, "allowedPorts": []},
            "Value '[]' at 'allowedPorts' failed to satisfy constraint: "
            "Member must have length greater than or equal to 1",
        ),
    ],
)
def test_one_failure(
    operations: dict[str, Operation], name: str, request_: dict[str, Any], text: str
) -> None:
    assert _message(operations[name], request_) == f"1 validation error detected: {text}"


def test_paths_are_camel_case(operations: dict[str, Operation]) -> None:
    """Recorded for connectors, whose members are PascalCase."""
    request = {
        "Name": "net",
        "Configuration": {"VpcEgressConfiguration": {"SubnetIds": ["subnet-1"] * 17}},
    }
    shown = ", ".join(["subnet-1"] * 17)
    assert _message(operations["CreateNetworkConnector"], request) == (
        f"1 validation error detected: Value '[{shown}]' at "
        "'configuration.vpcEgressConfiguration.subnetIds' failed to satisfy constraint: Member "
        "must have length less than or equal to 16"
    )


def test_all_failures_in_one_message(operations: dict[str, Operation]) -> None:
    text = _message(operations["CreateMicrovmImage"], {"name": "x"})
    assert text == (  # recorded, in this order
        "3 validation errors detected: "
        f"Value null at 'baseImageArn' {_NULL}; Value null at 'codeArtifact' {_NULL}; "
        f"Value null at 'buildRoleArn' {_NULL}"
    )


def test_two_constraints_of_one_member(operations: dict[str, Operation]) -> None:
    text = _message(
        operations["ListMicrovmImageVersions"], {"imageIdentifier": "", "maxResults": 0}
    )
    assert text.startswith("2 validation errors detected: Value '")
    text = _message(operations["UntagResource"], {"Resource": "", "TagKeys": ["a"]})
    assert text.startswith(
        "2 validation errors detected: Value '' at 'resource' failed to satisfy constraint: "
        "Member must have length greater than or equal to 1; Value '' at 'resource'"
    )


@pytest.mark.parametrize(
    ("members", "listed"),
    [
        # As public messages of other services have them.
        (("TopicArn", "Label", "AWSAccountId", "ActionName"), "AWSAccountId Label ActionName"),
        (("ReadCapacityUnits", "WriteCapacityUnits"), "WriteCapacityUnits ReadCapacityUnits"),
        (("AttributeName", "AttributeType"), "AttributeType AttributeName"),
        (("UserPoolId", "Username", "GroupName"), "GroupName Username"),
        (("domain", "execution"), "execution domain"),
    ],
)
def test_members_come_as_in_a_java_hash_map(members: tuple[str, ...], listed: str) -> None:
    shown = listed.split()
    assert [name for name in java_order(members) if name in shown] == shown


def test_two_members_of_a_union(operations: dict[str, Operation]) -> None:
    logging: dict[str, Any] = {"disabled": {}, "cloudWatch": {}}
    text = _message(operations["RunMicrovm"], _RUN | {"logging": logging})
    assert "Exactly one of [disabled, cloudWatch] must be set" in text


def test_many_failures_are_counted_not_listed(operations: dict[str, Operation]) -> None:
    ports = [{"port": 0}] * 1000
    text = _message(
        operations["CreateMicrovmAuthToken"],
        {"microvmIdentifier": "x", "expirationInMinutes": 1, "allowedPorts": ports},
    )
    assert text.startswith("1000 validation errors detected: ")
    assert len(text) < 10_000


@pytest.mark.parametrize(
    "request_",
    [
        _IMAGE,
        _IMAGE | {"tags": {"clé Ω": "värde 12"}, "environmentVariables": {"A": ""}},
        _IMAGE | {"hooks": {"port": 65535, "microvmHooks": {"run": "ENABLED"}}},
        _IMAGE | {"kmsKeyIdentifier": "alias/key", "logging": {"disabled": {}}},
    ],
)
def test_good_requests(operations: dict[str, Operation], request_: dict[str, Any]) -> None:
    validate(operations["CreateMicrovmImage"].input, request_)


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        (r"\d{2}", "12", True),
        (r"\d{2}", "١٢", False),
        (r"[^\s]+", "a\u00a0b", True),
        (r"[^\s]+", "a b", False),
        (r"[^\s]+", "a\n", False),
        (r"\w", "é", False),
        (r"[\p{L}]+", "éß", True),
        (r"a.c", "a\rc", False),
        (r"a.c", "a\u2028c", False),
        (r"a.c", "aéc", True),
        (r"[.]", "b", False),
        (r"a|b", "ab", False),
        (r"[a-z\]]+", "a]", True),
    ],
)
def test_java_patterns(pattern: str, value: str, *, matches: bool) -> None:
    assert (compile_pattern(pattern).fullmatch(value) is not None) is matches


def test_every_pattern_of_the_models_compiles(operations: dict[str, Operation]) -> None:
    for operation in operations.values():
        if operation.input is not None:
            for member in operation.input.members.values():
                compile_pattern(member.metadata.get("pattern", ""))
