"""What operators look at and do: events, the audit log, usage, access, connectors, the machine."""

import csv
import io
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browserlab import Chromium, Tab, axe, log_in, open_tab, shots
from tests.servicelab import Image, Service
from tests.serviceprocess import ACCOUNT, MAPPED_SUBNET

pytestmark = [pytest.mark.browser, pytest.mark.vm]

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=2</script>'
POLICY = {
    "Version": "2012-10-17",
    "Statement": {"Sid": HOSTILE, "Effect": "Allow", "Action": "lambda:List*", "Resource": "*"},
}


def look(page: Page, name: str) -> None:
    """As a reader with eyes and one without: at all widths, and by axe-core."""
    shots(page, name)
    axe(page)


def stays_text(page: Page) -> None:
    """Nothing of `HOSTILE` has become a part of the page."""
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.hit") is None
    assert page.locator("script", has_text="window.hit").count() == 0


@pytest.fixture
def used(service: Service, notebook: Image) -> Iterator[str]:
    """The id of a MicroVM that has run, of an image with a tag."""
    service.api.tag_resource(Resource=notebook.arn, Tags={"team": "red"})
    microvm = service.run(notebook)
    microvm.terminate()
    yield microvm.id
    service.api.untag_resource(Resource=notebook.arn, TagKeys=["team"])


def test_events_calls_and_usage(console: Tab, used: str, notebook: Image) -> None:
    page = console.page
    page.goto("/console/events")
    expect(page.locator("#rows")).to_contain_text(used)
    expect(page.locator("#rows .state", has_text="TERMINATED").first).to_be_visible()
    look(page, "events")
    page.get_by_label("Kind").select_option("MicroVM Image")
    page.get_by_role("button", name="Show").click()
    name = notebook.arn.rpartition(":")[2]
    expect(page.locator("#rows")).to_contain_text(name)
    expect(page.locator("#rows")).not_to_contain_text(used)
    page.get_by_role("searchbox").fill(HOSTILE)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="Nothing of this kind is kept")).to_be_visible()
    look(page, "events-none")
    stays_text(page)

    page.get_by_role("link", name="Show all").click()
    page.get_by_role("link", name="Audit log").click()
    call = page.locator("#rows tr", has_text="RunMicrovm").first
    call.locator("summary").click()
    expect(call.locator("pre")).to_contain_text('"eventName": "RunMicrovm"')
    look(page, "audit")
    page.get_by_label("Which calls").select_option("That change something")
    page.get_by_label("Operation").fill("ConsoleLogin")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#rows summary").first).to_contain_text("ConsoleLogin")
    expect(page.locator("#rows")).not_to_contain_text("RunMicrovm")

    page.goto("/console/usage")
    row = page.locator("tbody tr", has_text=name)
    expect(row).to_be_visible()
    look(page, "usage")
    page.get_by_label("By image").fill("tag:team")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody")).to_contain_text("red")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "usage-30-days.csv"
    lines = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert "red" in [line["key"] for line in lines]
    page.get_by_label("By image").fill(f"tag:{HOSTILE}")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("thead")).to_contain_text(HOSTILE)
    stays_text(page)


def test_a_user_from_the_first_key_to_the_last(
    console: Tab, chromium: Chromium, service: Service
) -> None:
    page = console.page
    page.goto("/console/access")
    page.get_by_label("New user").fill("ann")
    page.get_by_role("button", name="Make a user").click()
    expect(page.get_by_role("heading", name="May do nothing")).to_be_visible()
    page.get_by_label("Name").fill("look")
    page.get_by_label("Document (JSON)").fill(json.dumps(POLICY))
    page.get_by_role("button", name="Attach").click()
    expect(page.locator("#notices")).to_contain_text("Policy look is in force")
    expect(page.get_by_label("Document of look")).to_contain_text("window.hit=1")
    stays_text(page)
    look(page, "access-user")
    page.get_by_role("link", name="Access", exact=True).first.click()
    page.get_by_role("button", name="New key for ann").click()
    key, secret = (
        page.locator("section dd button.copy").nth(place).get_attribute("data-copy")
        for place in (0, 1)
    )
    assert key is not None
    assert secret is not None
    look(page, "access")
    agent = f"a browser {HOSTILE}"
    with open_tab(chromium.browser, base_url=service.url, user_agent=agent) as theirs:
        theirs.allow("^answer: 403 to GET .*/console/usage")
        theirs.page.goto("/console/login?next=/usage")
        log_in(theirs.page, key, secret)
        expect(theirs.page.get_by_role("heading", name="You may not do this")).to_be_visible()
        axe(theirs.page)
        page.goto("/console/sessions")
        expect(page.locator("tbody")).to_contain_text("user/ann")
        stays_text(page)
        page.goto("/console/events/calls?name=ConsoleLogin")
        page.locator("#rows summary").first.click()
        expect(page.locator("#rows pre").first).to_contain_text("window.hit=1")
        stays_text(page)
        page.goto("/console/access")
        assert secret not in page.content()
        page.get_by_role("button", name=f"Revoke {key}").click()
        expect(page.locator("#notices")).to_contain_text("is refused from now on")
        theirs.page.reload()
        expect(theirs.page.get_by_label("Access key id")).to_be_visible()
    page.goto(f"/console/access/{ACCOUNT}/users/ann")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#notices")).to_contain_text("User ann is deleted")


def test_a_connector_and_the_machine(console: Tab) -> None:
    page = console.page
    page.goto("/console/connectors")
    expect(page.get_by_role("heading", name="No connectors of your own")).to_be_visible()
    look(page, "connectors-none")
    page.get_by_role("button", name="New connector").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(HOSTILE)
    dialog.get_by_label("Subnets").fill(MAPPED_SUBNET)
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.locator(".notice.bad")).to_contain_text("<img src=x")
    stays_text(page)
    axe(page)
    shots(page, "connector-new")
    dialog.get_by_label("Name").fill("office")
    dialog.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="office", exact=True)).to_be_visible()
    look(page, "connector")
    page.get_by_role("link", name="Connectors", exact=True).first.click()
    expect(page.get_by_role("row").filter(has_text="office")).to_be_visible()
    look(page, "connectors")
    page.get_by_role("link", name="office").click()
    expect(page.locator("#connector .state")).to_have_text("ACTIVE")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#notices")).to_contain_text("The connector is being deleted")

    page.goto("/console/nodes")
    expect(page.get_by_text("MiB free").first).to_be_visible()
    expect(page.locator("#facts .state.bad")).to_have_count(0)
    look(page, "nodes")
