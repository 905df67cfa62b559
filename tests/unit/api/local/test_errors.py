"""Errors of other services as botocore reads them."""

from xml.etree import ElementTree

import pytest
from botocore.model import StructureShape
from botocore.parsers import create_parser

from microvmd.api.local.errors import error_body

_EMPTY = StructureShape("Empty", {"type": "structure", "members": {}})


@pytest.mark.parametrize(
    ("service", "protocol", "code"),
    [
        ("s3", "rest-xml", "SignatureDoesNotMatch"),
        ("sts", "query", "SignatureDoesNotMatch"),
        ("iam", "query", "SignatureDoesNotMatch"),
        ("logs", "json", "InvalidSignatureException"),
        ("kms", "json", "InvalidSignatureException"),
    ],
)
def test_each_service_words_it_in_its_manner(service: str, protocol: str, code: str) -> None:
    _, body = error_body(service, "InvalidSignatureException", "a < b & c", 403, "number")
    parsed = create_parser(protocol).parse(
        {"status_code": 403, "headers": {}, "body": body}, _EMPTY
    )
    assert (parsed["Error"]["Code"], parsed["Error"]["Message"]) == (code, "a < b & c")


@pytest.mark.parametrize("number", ["a & b", None])
def test_the_number_of_the_request_is_told_where_there_is_one(number: str | None) -> None:
    media_type, body = error_body("s3", "EntityTooLarge", "too large", 400, number)
    assert media_type == "application/xml"
    assert ElementTree.fromstring(body).findtext("RequestId") == number
