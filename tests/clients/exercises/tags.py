"""Tags of images, by the operations that Lambda has for all its resources."""

from tests.clients.exercises.registry import World, exercise, image_arn
from tests.clients.exercises.versions import INVALID, NOT_FOUND
from tests.clients.outcome import Client

TAGS = {"team": "a", "empty": "", "größe": "a+b = c/d @ e:f_g"}
MICROVM = "arn:aws:lambda:us-east-1:123456789012:microvm:microvm-1"


def _tags(world: World, arn: str) -> dict[str, str]:
    found: dict[str, str] = world.arrange.call("ListTags", Resource=arn).document["Tags"]
    return found


@exercise("TagResource")
def tag(aws: Client, world: World) -> None:
    arn = world.image(tags={"team": "z", "kept": "1"})
    assert aws.call("TagResource", Resource=arn, Tags=TAGS).status == 204
    assert _tags(world, arn) == TAGS | {"kept": "1"}
    absent = aws.call("TagResource", Resource=image_arn("ghost"), Tags=TAGS)
    assert absent.refusal == NOT_FOUND
    assert aws.call("TagResource", Resource=MICROVM, Tags=TAGS).refusal == INVALID


@exercise("UntagResource")
def untag(aws: Client, world: World) -> None:
    arn = world.image(tags=TAGS | {"kept": "1"})
    assert aws.call("UntagResource", Resource=arn, TagKeys=["team"]).status == 204
    assert (
        aws.call("UntagResource", Resource=arn, TagKeys=["größe", "empty", "absent"]).status == 204
    )
    assert _tags(world, arn) == {"kept": "1"}
    absent = aws.call("UntagResource", Resource=image_arn("ghost"), TagKeys=["a"])
    assert absent.refusal == NOT_FOUND


@exercise("ListTags")
def list_tags(aws: Client, world: World) -> None:
    found = aws.call("ListTags", Resource=world.image(tags=TAGS))
    assert (found.status, found.document) == (200, {"Tags": TAGS})
    assert aws.call("ListTags", Resource=world.image()).document == {"Tags": {}}
    assert aws.call("ListTags", Resource=image_arn("ghost")).refusal == NOT_FOUND
    assert aws.call("ListTags", Resource=MICROVM).refusal == INVALID
