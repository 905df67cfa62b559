"""The way into the console, and images: from a folder on the disk to an ACTIVE version."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browserlab import Tab, axe, drop, log_in, shots
from tests.checkout import CHECKOUT
from tests.servicelab import REGION, Service
from tests.serviceprocess import ACCOUNT

pytestmark = [pytest.mark.browser, pytest.mark.vm]

FOLDER = CHECKOUT / "examples" / "interpreter"
BUILD_MS = 280_000
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


def _microvmd(service: Service, *words: str) -> str:
    command = [str(Path(sys.executable).parent / "microvmd"), *words]
    done = subprocess.run(
        command, env=service.environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def _images(service: Service) -> list[dict[str, str]]:
    found: list[dict[str, str]] = service.api.list_microvm_images()["items"]
    return found


def _look(page: Page, name: str) -> None:
    shots(page, name)
    axe(page)


def _log_in(page: Page, service: Service) -> None:
    page.goto(_microvmd(service, "console").strip())
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="Images", exact=True)).to_be_visible()


def _next(page: Page, title: str) -> None:
    page.get_by_role("button", name="Next").click()
    expect(page.locator("legend", has_text=title)).to_be_visible()


def test_login_and_its_end(tab: Tab, service: Service) -> None:
    page = tab.page
    tab.allow("^answer: 403 to POST .*/console/login")
    page.goto(f"{service.url}/console/images")
    expect(page).to_have_url(f"{service.url}/console/login?next=/images")
    log_in(page, "AKIAWRONG", "wrong")
    expect(page.get_by_role("alert")).to_contain_text("no such access key")
    expect(page.get_by_label("Access key id")).to_have_value("AKIAWRONG")
    _look(page, "login")
    keys = service.session.get_credentials()
    assert keys is not None
    log_in(page, keys.access_key, keys.secret_key)
    expect(page).to_have_url(f"{service.url}/console/images")
    (cookie,) = page.context.cookies()
    assert cookie["name"].startswith("__Host-")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
    page.goto(f"{service.url}/console/sessions")
    expect(page.get_by_text("this one")).to_be_visible()
    _look(page, "sessions")
    found = json.loads(_microvmd(service, "console", "sessions", "--json"))
    for session in found:
        _microvmd(service, "console", "end", session["number"])
    page.reload()
    expect(page.get_by_label("Access key id")).to_be_visible()


def test_a_link_is_good_once(tab: Tab, service: Service) -> None:
    page = tab.page
    tab.allow("^answer: 403 to GET .*/console/login/")
    url = _microvmd(service, "console").strip()
    page.goto(url)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="Images", exact=True)).to_be_visible()
    page.goto(url)
    expect(page.get_by_role("heading", name="This link is used up")).to_be_visible()


@pytest.mark.parametrize(
    ("site", "told"),
    [
        # Another port is the same site to a browser: the cookie comes along.
        ("http://127.0.0.1:18080/", "nothing was done"),
        ("http://elsewhere.localhost:18080/", "Access key id"),
    ],
)
def test_a_page_of_others_does_nothing(tab: Tab, service: Service, site: str, told: str) -> None:
    page = tab.page
    tab.allow("^answer: 403 to POST .*/console/logout")
    _log_in(page, service)
    form = f'<form method="post" action="{service.url}/console/logout"><button>Win</button></form>'
    page.route(site, lambda route: route.fulfill(body=form, content_type="text/html"))
    page.goto(site)
    page.get_by_role("button", name="Win").click()
    expect(page.get_by_text(told)).to_be_visible()
    page.goto(f"{service.url}/console/images")
    expect(page.get_by_role("heading", name="Images", exact=True)).to_be_visible()


def test_from_a_folder_to_an_active_version(tab: Tab, service: Service) -> None:
    page = tab.page
    _log_in(page, service)
    page.goto(f"{service.url}/console/new-image")
    page.locator("#new-image input[name=name]").fill("by-console")
    page.locator("#folder").set_input_files(FOLDER)
    expect(page.locator("#uploaded")).to_contain_text("interpreter is uploaded")
    _look(page, "image-new-source")
    _next(page, "Machine")
    page.get_by_label("512 MiB").check()
    _look(page, "image-new-machine")
    _next(page, "Hooks")
    _look(page, "image-new-hooks")
    _next(page, "Environment")
    page.locator("[name=env_name]").fill("GREETING")
    page.locator("[name=env_value]").fill(HOSTILE)
    page.locator("[name=tag_name]").fill("team")
    page.locator("[name=tag_value]").fill("browser tests")
    _look(page, "image-new-environment")
    _next(page, "Logging")
    _next(page, "Review")
    expect(page.locator("#review")).to_contain_text("512 MiB")
    _look(page, "image-new-review")
    page.get_by_role("button", name="Create the image").click()
    expect(page.get_by_role("heading", name="Build", exact=True)).to_be_visible()
    expect(page.locator("#log")).to_contain_text("fetching s3://microvmd-artifacts-")
    expect(page.locator("#progress .state")).to_have_text("SUCCESSFUL", timeout=BUILD_MS)
    expect(page.locator(".stages li.done")).to_have_count(6)
    expect(page.locator("#log")).to_contain_text("done")
    expect(page.locator("dl.facts").last).to_contain_text(HOSTILE)
    _look(page, "image-version")
    page.get_by_role("link", name="by-console", exact=True).click()
    expect(page.get_by_text("team=browser tests")).to_be_visible()
    _look(page, "image")
    page.get_by_role("button", name="Deactivate version 1.0").click()
    expect(page.get_by_role("status")).to_contain_text("Version 1.0 is inactive")
    page.get_by_role("button", name="Activate version 1.0").click()
    expect(page.get_by_role("status")).to_contain_text("Version 1.0 is active")
    page.get_by_role("link", name="Images", exact=True).first.click()
    row = page.get_by_role("row").filter(has_text="by-console")
    expect(row.locator(".state")).to_have_text("CREATED")
    _look(page, "images")
    row.get_by_role("link", name="New version").click()
    expect(page.get_by_role("heading", name="New version of by-console")).to_be_visible()
    expect(page.locator("[name=s3_uri]")).to_have_value(
        service.api.get_microvm_image_version(
            imageIdentifier=f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:by-console",
            imageVersion="1.0",
        )["codeArtifact"]["uri"]
    )


def test_a_zip_is_looked_into_before_it_is_kept(tab: Tab, service: Service, tmp_path: Path) -> None:
    page = tab.page
    tab.allow("^answer: 400 to POST .*/console/uploads")
    wrong, right = tmp_path / "wrong.zip", tmp_path / "right.zip"
    for path, name in ((wrong, "inner/Dockerfile"), (right, "Dockerfile")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "FROM scratch\n")
    _log_in(page, service)
    page.goto(f"{service.url}/console/new-image")
    page.locator("#zip").set_input_files(wrong)
    expect(page.locator("#problem")).to_contain_text("There is inner/Dockerfile: send what is in")
    drop(page, "#drop", right)
    expect(page.locator("#uploaded")).to_contain_text("right.zip is uploaded: 1 files")
    expect(page.locator("#problem")).to_be_hidden()
    for title in ("Machine", "Hooks", "Environment", "Logging", "Review"):
        _next(page, title)
    expect(page.locator("#review")).to_contain_text("right.zip, s3://microvmd-artifacts-")


def test_an_example_is_sent_once_and_what_was_typed_stays(tab: Tab, service: Service) -> None:
    page = tab.page
    tab.allow("^answer: 400 to POST .*/console/new-image")
    _log_in(page, service)
    page.goto(f"{service.url}/console/new-image")
    page.locator("#new-image input[name=name]").fill("by-example")
    page.locator("[name=kind][value=example]").check()
    page.locator("[name=example][value=hello]").check()
    _look(page, "image-new-example")
    _next(page, "Machine")
    page.locator("[name=role]").fill("no-role")
    for title in ("Hooks", "Environment", "Logging", "Review"):
        _next(page, title)
    expect(page.locator("#review")).to_contain_text("example hello")
    page.get_by_role("button", name="Create the image").click()
    expect(page.locator("#problem")).to_contain_text("buildRoleArn")
    expect(page.locator("legend", has_text="Machine")).to_be_visible()
    expect(page.locator("[name=role]")).to_have_value("no-role")
    page.get_by_role("button", name="Source").click()
    expect(page.locator("#uploaded")).to_contain_text("example hello is uploaded")
    assert "by-example" not in {one["name"] for one in _images(service)}


def test_a_build_that_fails_says_where(tab: Tab, service: Service, tmp_path: Path) -> None:
    page = tab.page
    tab.allow("^answer: 400 to POST .*/console/new-image")
    base = (FOLDER / "Dockerfile").read_text().splitlines()
    first = next(line for line in base if line.startswith("FROM"))
    (tmp_path / "Dockerfile").write_text(f"{first}\nRUN echo '{HOSTILE}' && exit 3\n")
    _log_in(page, service)
    page.goto(f"{service.url}/console/new-image")
    page.locator("#new-image input[name=name]").fill("fails")
    drop(page, "#drop", tmp_path)
    expect(page.locator("#uploaded")).to_contain_text("is uploaded: 1 files")
    for title in ("Machine", "Hooks", "Environment", "Logging", "Review"):
        _next(page, title)
    page.get_by_role("button", name="Hooks").click()
    page.get_by_label("/run", exact=True).check()
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Create the image").click()
    expect(page.locator("#problem")).to_contain_text("/ready")
    expect(page.locator("legend", has_text="Hooks")).to_be_visible()
    page.get_by_label("/run", exact=True).uncheck()
    page.get_by_role("button", name="Review").click()
    page.get_by_role("button", name="Create the image").click()
    expect(page.locator("#progress .state")).to_have_text("FAILED", timeout=BUILD_MS)
    expect(page.locator(".stages li.failed")).to_contain_text("Build the Dockerfile")
    expect(page.locator("#progress .notice")).to_contain_text("The last lines below are those")
    expect(page.locator("#log")).to_contain_text(HOSTILE)
    _look(page, "image-failed")
    page.get_by_role("link", name="fails", exact=True).click()
    page.get_by_role("button", name="Delete").click()
    page.locator("[name=confirm]").fill("fails")
    page.locator("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_contain_text("is being deleted")
