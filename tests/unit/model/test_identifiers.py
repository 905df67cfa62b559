"""Identifiers: recorded formats, and parsing that never crashes on what clients send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.errors import AccessDenied, ApiError, ValidationError
from microvmd.model.identifiers import (
    ImageArn,
    ImageVersion,
    endpoint_name,
    is_microvm_id,
    new_endpoint_id,
    new_microvm_id,
)

ARN = "arn:aws:lambda:us-east-2:123456789012:microvm-image:my-app_1"


def test_image_arn_round_trip() -> None:
    arn = ImageArn.parse(ARN)
    assert (arn.region, arn.account, arn.name, arn.managed) == (
        "us-east-2",
        "123456789012",
        "my-app_1",
        False,
    )
    assert str(arn) == ARN
    assert ImageArn.parse("arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1").managed


def test_bare_name_and_slash_form_are_refused_as_recorded() -> None:
    with pytest.raises(ValidationError, match="Invalid ARN format: my-app"):
        ImageArn.parse("my-app")
    with pytest.raises(AccessDenied):
        ImageArn.parse("arn:aws:lambda:us-east-2:123456789012:microvm-image/my-app")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my-app", "Malformed ARN - doesn't start with 'arn:'"),
        ("arn", "Malformed ARN - doesn't start with 'arn:'"),
        ("arn:aws", "Malformed ARN - no AWS partition specified"),
        ("arn:aws:lambda", "Malformed ARN - no service specified"),
        ("arn:aws:lambda:us-east-2", "Malformed ARN - no AWS region partition specified"),
        ("arn:aws:lambda:us-east-2:123456789012", "Malformed ARN - no AWS account specified"),
        ("arn:aws:lambda:us-east-2:123456789012:", "Malformed ARN - no resource specified"),
        ("arn:aws:s3:::bucket", "Invalid ARN format: arn:aws:s3:::bucket"),
    ],
)
def test_a_run_tells_in_other_words_what_is_no_arn(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ImageArn.parse_run(text)
    assert caught.value.message == message


def test_a_run_takes_the_arn_that_all_take() -> None:
    assert ImageArn.parse_run(ARN) == ImageArn.parse(ARN)
    with pytest.raises(AccessDenied):
        ImageArn.parse_run(ARN.replace("image:", "image/"))


@given(st.text(max_size=80) | st.just(ARN + "\n") | st.just(ARN + ":x"))
def test_hostile_arns_raise_api_errors_only(text: str) -> None:
    for parse in (ImageArn.parse, ImageArn.parse_run):
        with pytest.raises(ApiError):
            parse(text)


def test_versions_order_as_numbers() -> None:
    assert ImageVersion.parse("10.0") > ImageVersion.parse("9.0")
    assert str(ImageVersion.parse("2.0").next()) == "3.0"
    for text in ("1", "01.0", "1.0\n", "a.b", ""):
        assert ImageVersion.read(text) is None
        with pytest.raises(ValueError, match="not an image version"):
            ImageVersion.parse(text)


def test_new_identifiers() -> None:
    first, second = new_microvm_id(), new_microvm_id()
    assert first != second
    assert is_microvm_id(first)
    assert not is_microvm_id(first + "\n")
    assert new_endpoint_id() not in first


def test_endpoint_name_shows_only_an_unusual_port() -> None:
    assert endpoint_name("e", "us-east-1", "microvm.localhost") == (
        "e.lambda-microvm.us-east-1.microvm.localhost"
    )
    assert endpoint_name("e", "r-1", "d.test", 8443) == "e.lambda-microvm.r-1.d.test:8443"
