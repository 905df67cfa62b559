"""The tree of errors: what is drawn is what there is, and each is an error of the AWS model."""

import re

import pytest
from botocore.loaders import Loader

from microvmd.model import errors
from microvmd.model.errors import ApiError, NotFound, Throttled

# The wire layer has errors of its own, which only exist where it was imported.
KINDS = [kind for kind in ApiError.__subclasses__() if kind.__module__ == errors.__name__]


def test_the_drawing_is_complete() -> None:
    drawn = dict(re.findall(r"\+- (\w+) +\d{3} (\w+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__: kind.code for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_code_is_one_of_the_model(kind: type[ApiError]) -> None:
    shapes = Loader().load_service_model("lambda-microvms", "service-2")["shapes"]
    assert shapes[kind.code]["exception"]


def test_errors_carry_what_the_answer_needs() -> None:
    found = NotFound("no such image", resource_type="MicrovmImage", resource_id="app")
    assert (found.message, str(found)) == ("no such image", "no such image")
    assert (found.resource_type, found.resource_id) == ("MicrovmImage", "app")
    assert Throttled("slower", retry_after=3).retry_after == 3
