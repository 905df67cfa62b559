"""The list of MicroVMs: what it shows, runs and does to many, with the rights of who looks."""

import json

import pytest

from microvmd.messages.node import Started, Terminated
from tests.consolelab import ConsoleLab
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN

pytestmark = pytest.mark.anyio

IMAGE_NAME = IMAGE_ARN.rpartition(":")[2]


async def started(lab: ConsoleLab, count: int = 1) -> list[str]:
    """Ids of RUNNING MicroVMs."""
    if not lab.plane.microvms.live():
        await lab.plane.built()
    names = []
    for number in range(count):
        lab.plane.clock.now += 1
        made = await lab.plane.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        await lab.plane.microvms.report(Started(made.microvm_id, 1, f"10.0.0.{number}"))
        names.append(made.microvm_id)
    return names


async def test_an_empty_list_says_so(lab: ConsoleLab) -> None:
    browser = await lab.logged_in()
    page = await browser.get("/microvms")
    assert page.status_code == 200
    assert "No MicroVM lives" in page.text
    assert '<div class="scroll" id="table" hidden>' in page.text


async def test_the_newest_come_first_and_filters_hold(lab: ConsoleLab) -> None:
    old, new = await started(lab, 2)
    browser = await lab.logged_in()
    page = (await browser.get("/microvms")).text
    assert page.index(new) < page.index(old)
    assert f"/console/microvm/{new}" in page
    for query, shown in (
        (f"?q={old}", True),
        ("?q=nothing-like-it", False),
        ("?state=SUSPENDED", False),
        ("?state=RUNNING", True),
        (f"?image={IMAGE_NAME}", True),
        ("?image=other", False),
    ):
        found = (await browser.get(f"/microvms{query}")).text
        assert (f"/console/microvm/{old}" in found) == shown, query


async def test_changes_are_those_since_a_version(lab: ConsoleLab) -> None:
    (name,) = await started(lab)
    browser = await lab.logged_in()
    first = (await browser.get("/microvms/changes")).json()
    assert [row["microvm"] for row in first["rows"]] == [name]
    again = (await browser.get(f"/microvms/changes?after={first['version']}")).json()
    assert (again["rows"], again["microvms"]) == ([], None)


async def test_a_run_by_the_dialog(lab: ConsoleLab) -> None:
    ready, hook = {"ready": "ENABLED"}, {"run": "ENABLED"}
    await lab.plane.built(hooks={"port": 9000, "microvmImageHooks": ready, "microvmHooks": hook})
    browser = await lab.logged_in()
    form = (await browser.get("/microvms/run", **{"hx-request": "true"})).text
    assert IMAGE_ARN in form
    fields = {"image": IMAGE_ARN, "idle": "300", "suspended": "600", "resume": "yes"}
    more = {"duration": "900", "payload": "hello\r\nthere"}
    answer = await browser.post("/microvms/run", {**fields, **more}, **{"hx-request": "true"})
    assert answer.status_code == 204, answer.text
    (made,) = lab.plane.microvms.live()
    assert answer.headers["hx-redirect"] == f"/console/microvm/{made.microvm_id}"
    assert made.idle_policy is not None
    assert (made.idle_policy.max_idle_s, made.idle_policy.suspended_s) == (300, 600)
    assert made.idle_policy.auto_resume
    assert (made.maximum_duration_s, made.run_hook_payload) == (900, "hello\nthere")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"duration": "<b>soon</b>"}, "Maximum duration must be a whole number"),
        ({"image": f"{IMAGE_ARN}-2"}, "No active version found"),
        ({"idle": "5"}, "maxIdleDurationSeconds"),
    ],
)
async def test_a_run_that_is_refused_keeps_the_dialog(
    lab: ConsoleLab, fields: dict[str, str], told: str
) -> None:
    await lab.plane.built()
    browser = await lab.logged_in()
    answer = await browser.post("/microvms/run", {"image": IMAGE_ARN, **fields})
    assert answer.status_code == 200
    assert told in answer.text
    assert "<b>" not in answer.text
    assert lab.plane.microvms.live() == []


async def test_many_at_once(lab: ConsoleLab) -> None:
    names = await started(lab, 3)
    browser = await lab.logged_in()
    sent = {"csrf": browser.csrf, "action": "suspend", "microvm": [*names[:2], "microvm-none"]}
    answer = await browser.client.post(
        "/console/microvms/many", data=sent, headers={"sec-fetch-site": "same-origin"}
    )
    assert answer.headers["location"] == "/console/microvms"
    states = {one.microvm_id: one.state.value for one in lab.plane.microvms.live()}
    assert [states[name] for name in names] == ["SUSPENDING", "SUSPENDING", "RUNNING"]
    page = (await browser.get("/microvms")).text
    assert "2 MicroVMs are being suspended." in page
    assert "microvm-none: " in page


async def test_nothing_is_done_without_a_word_for_it(lab: ConsoleLab) -> None:
    (name,) = await started(lab)
    browser = await lab.logged_in()
    answer = await browser.post("/microvms/many", {"action": "explode", "microvm": name})
    assert answer.status_code == 400
    assert [one.state.value for one in lab.plane.microvms.live()] == ["RUNNING"]


async def test_what_has_ended_is_listed_apart(lab: ConsoleLab) -> None:
    gone, alive = await started(lab, 2)
    await lab.plane.microvms.terminate(ACCOUNT, gone)
    for microvm in lab.plane.microvms.live():
        if microvm.microvm_id == gone:
            await lab.plane.microvms.report(Terminated(gone, microvm.generation))
    browser = await lab.logged_in()
    page = (await browser.get("/microvms/ended")).text
    assert gone in page
    assert alive not in page


async def test_it_takes_rights(lab: ConsoleLab) -> None:
    (name,) = await started(lab)
    allow = {"Effect": "Allow", "Action": "lambda:ListMicrovms", "Resource": "*"}
    reader = await lab.user("reader", json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    browser = await lab.logged_in(reader)
    assert name in (await browser.get("/microvms")).text
    await browser.post("/microvms/many", {"action": "terminate", "microvm": name})
    assert "not authorized" in (await browser.get("/microvms")).text
    assert [one.state.value for one in lab.plane.microvms.live()] == ["RUNNING"]
    nobody = await lab.logged_in(await lab.user("nobody"))
    assert (await nobody.get("/microvms")).status_code == 403
