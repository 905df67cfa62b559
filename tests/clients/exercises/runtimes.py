"""Runtimes of Lambda functions, which microvmd does not offer: each operation says so."""

from functools import partial

from microvmd.api.operations import CORE, load_operations
from tests.clients.exercises.registry import World, exercise
from tests.clients.outcome import Client

MEMBERS = {
    "RuntimeName": "a-runtime",
    "Name": "blue",
    "RuntimeVersion": "v1",
    "ImageUri": "123456789012.dkr.ecr.us-east-1.example/image:1",
    "ReleaseNotes": "none",
}


def _refused(operation: str, required: tuple[str, ...], aws: Client, world: World) -> None:
    outcome = aws.call(operation, **{name: MEMBERS[name] for name in required})
    assert outcome.refusal == (501, "ServiceException"), outcome
    assert outcome.message is not None
    assert outcome.message.startswith(f"{operation} is not offered")


for _operation in load_operations():
    if _operation.service == CORE and "Runtime" in _operation.name:
        assert _operation.input is not None
        _required = tuple(_operation.input.required_members)
        exercise(_operation.name)(partial(_refused, _operation.name, _required))
