"""Routing on the raw path: ARNs with raw or encoded colons, encoded slashes, no match."""

from urllib.parse import quote

import pytest

from microvmd.api.errors import UnknownOperation, UnparsableQuery
from microvmd.api.operations import load_operations
from microvmd.api.routes import Router, decode

_ROUTER = Router(load_operations())
_ARN = "arn:aws:lambda:us-east-1:123456789012:microvm-image:web"


@pytest.mark.parametrize("spelled", [_ARN, quote(_ARN, safe=""), quote(_ARN, safe=":").lower()])
def test_image_arn_in_the_path(spelled: str) -> None:
    match = _ROUTER.match("GET", f"/2025-09-09/microvm-images/{spelled}/versions/1.0/builds/b")
    assert match.operation.name == "GetMicrovmImageBuild"
    assert match.labels == {"imageIdentifier": _ARN, "imageVersion": "1.0", "buildId": "b"}


def test_encoded_slash_stays_in_its_label() -> None:
    match = _ROUTER.match("GET", "/2025-09-09/microvm-images/a%2Fversions%2F1.0")
    assert match.operation.name == "GetMicrovmImage"
    assert match.labels == {"imageIdentifier": "a/versions/1.0"}


def test_empty_label_is_for_validation_to_refuse() -> None:
    assert _ROUTER.match("GET", "/2025-09-09/microvms/").labels == {"microvmIdentifier": ""}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", ""),
        ("PATCH", "/2025-09-09/microvms"),
        ("GET", "/2025-09-09/microvms/a/b/c/d/e/f/g"),
        ("GET", "/2015-03-31/functions"),
    ],
)
def test_no_operation(method: str, path: str) -> None:
    with pytest.raises(UnknownOperation):
        _ROUTER.match(method, path)


def test_every_operation_finds_itself() -> None:
    for operation in load_operations():
        path = "/".join("x" if part.startswith("{") else part for part in operation.path)
        assert _ROUTER.match(operation.method, f"/{path}").operation.name == operation.name


@pytest.mark.parametrize("text", ["%", "%4", "%zz", "a%ff", "ü"])
def test_decode_is_strict(text: str) -> None:
    with pytest.raises(UnparsableQuery):
        decode(text)
