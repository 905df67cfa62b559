"""Images through the pages: what is shown, what is done, and by whose rights."""

import json

import pytest

from microvmd.messages.node import BuildFailed, BuildStarted, BuildVersion
from tests.consolelab import ConsoleLab
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN

pytestmark = pytest.mark.anyio
NEW = {
    "name": "b",
    "kind": "s3",
    "s3_uri": "s3://b/k",
    "base": CREATE["baseImageArn"],
    "role": CREATE["buildRoleArn"],
}
ONLY_LOOK = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Action": ["lambda:List*", "lambda:Get*"],
            "Resource": "*",
        },
    }
)


async def test_the_list_and_its_rows(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    assert "No images yet" in (await browser.get("/images")).text
    await lab.plane.built()
    page = (await browser.get("/images")).text
    assert 'href="/console/images/app"' in page
    seen = page.split("seen=")[1].split('"')[0]
    assert (await browser.get(f"/images-rows?seen={seen}")).status_code == 204
    await lab.plane.images.create(ACCOUNT, {**CREATE, "name": "other"})
    rows = await browser.get(f"/images-rows?seen={seen}")
    assert rows.text.startswith("<tbody")
    assert "other" in rows.text
    assert "app" not in (await browser.get("/images-rows?name=oth")).text.split("<tr>", 1)[1]


async def test_one_image_and_its_versions(lab: ConsoleLab) -> None:
    await lab.plane.built(tags={"team": "a b"})
    browser = await lab.logged_in()
    page = (await browser.get("/images/app")).text
    for shown in ("team=a b", "microvm-image:app", "1.0", "SUCCESSFUL", "Deactivate"):
        assert shown in page
    seen = page.split("seen=")[1].split('"')[0]
    assert (await browser.get(f"/images/app/live?seen={seen}")).status_code == 204
    fields = {"status": "INACTIVE"}
    answer = await browser.post("/images/app/versions/1.0/status", fields)
    assert answer.headers["location"] == "/console/images/app"
    told = (await browser.get("/images/app")).text
    assert "Version 1.0 is inactive" in told
    assert "Activate" in told
    assert (await browser.get("/images/app/live?seen=")).status_code == 200
    assert (await browser.get("/images/nothing")).status_code == 404


async def test_each_step_of_a_build_is_a_change_of_its_image(lab: ConsoleLab) -> None:
    await lab.plane.built()
    browser = await lab.logged_in()

    async def shown(before: str) -> tuple[str, str]:
        """The live part and its digest, which is another one than before."""
        lab.plane.clock.now += 1
        page = (await browser.get(f"/images/app/live?seen={before}")).text
        return page, page.split("seen=")[1].split('"')[0]

    _, seen = await shown("")
    await lab.plane.images.update(ACCOUNT, {**CREATE, "imageIdentifier": IMAGE_ARN})
    _, seen = await shown(seen)
    command = lab.plane.node.commands.pop()
    assert isinstance(command, BuildVersion)
    await lab.plane.images.report(BuildStarted(command.version, command.build_id))
    page, seen = await shown(seen)
    assert "IN_PROGRESS" in page
    await lab.plane.images.report(BuildFailed(command.version, command.build_id, "no room"))
    page, seen = await shown(seen)
    assert "no room" in page
    assert (await browser.get(f"/images/app/live?seen={seen}")).status_code == 204


async def test_an_image_is_deleted_by_its_name(lab: ConsoleLab) -> None:
    await lab.plane.built()
    browser = await lab.logged_in()
    wrong = await browser.post("/images/app/delete", {"confirm": "ap"})
    assert wrong.status_code == 400
    assert "nothing was done" in wrong.text
    assert (await browser.get("/images/app")).status_code == 200
    answer = await browser.post("/images/app/delete", {"confirm": "app"})
    assert answer.headers["location"] == "/console/images"
    assert "DELETING" in (await browser.get("/images")).text


async def test_who_may_only_look_changes_nothing(lab: ConsoleLab) -> None:
    await lab.plane.built()
    ann = await lab.logged_in(await lab.user("ann", ONLY_LOOK))
    assert (await ann.get("/images/app")).status_code == 200
    for path, fields in (
        ("/images/app/delete", {"confirm": "app"}),
        ("/images/app/versions/1.0/status", {"status": "INACTIVE"}),
        ("/images/app/versions/1.0/delete", {}),
        ("/new-image", NEW),
    ):
        answer = await ann.post(path, fields)
        assert answer.status_code in (400, 403), path
        assert "not authorized" in answer.text, path
    assert "ACTIVE" in (await ann.get("/images/app")).text


async def test_hostile_texts_stay_texts(lab: ConsoleLab) -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    await lab.plane.images.create(
        ACCOUNT,
        {
            **CREATE,
            "description": hostile,
            "tags": {hostile: hostile},
            "environmentVariables": {hostile.replace(" ", ""): hostile},
            "logging": {"cloudWatch": {"logStream": hostile}},
        },
    )
    command = lab.plane.node.commands.pop()
    assert isinstance(command, BuildVersion)
    await lab.plane.images.report(BuildStarted(command.version, command.build_id))
    await lab.plane.images.report(BuildFailed(command.version, command.build_id, hostile))
    browser = await lab.logged_in()
    for path in (
        "/images",
        "/images/app",
        "/images/app/versions/1.0",
        "/images/app/versions/1.0/log?after=0",
        "/new-image?of=app&version=1.0",
        f"/images?name={hostile}",
    ):
        text = (await browser.get(path)).text
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
    assert "&lt;script&gt;" in (await browser.get("/images/app")).text
