"""One browser, one service and one login for all tests of this folder."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browserlab import Chromium, Tab, log_in, open_tab, running_chromium
from tests.leaks import Resident
from tests.servicelab import Image, Service, interpreter, running_service


@pytest.fixture(scope="package")
def chromium(residents: list[Resident]) -> Iterator[Chromium]:
    with running_chromium() as chromium:
        residents.append(chromium)
        yield chromium
        residents.remove(chromium)


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    """A page that fails its test when it complains."""
    with open_tab(chromium.browser) as tab:
        yield tab


@pytest.fixture(scope="package")
def looked_at(residents: list[Resident]) -> Iterator[Service]:
    """The service that every page here is one of."""
    with running_service() as service:
        residents.append(service)
        yield service
        residents.remove(service)


@pytest.fixture
def service(looked_at: Service) -> Iterator[Service]:
    """It, and after the test nothing but its images is left in it."""
    yield looked_at
    looked_at.terminate_all()
    looked_at.check_strays()


@pytest.fixture
def notebook(service: Service) -> Image:
    """examples/interpreter: a MicroVM of it runs the Python code that a test sends."""
    return interpreter(service)


@pytest.fixture(scope="package")
def login(chromium: Chromium, looked_at: Service) -> Any:
    """What a browser keeps of a login with the operator's key."""
    keys = looked_at.session.get_credentials()
    assert keys is not None
    with open_tab(chromium.browser, base_url=looked_at.url) as tab:
        tab.page.goto("/console")
        log_in(tab.page, keys.access_key, keys.secret_key)
        tab.page.wait_for_url("**/console/microvms")
        return tab.page.context.storage_state()


@pytest.fixture
def console(chromium: Chromium, service: Service, login: Any) -> Iterator[Tab]:
    """A page of somebody who is logged in as the operator; it fails its test when it complains."""
    with open_tab(chromium.browser, base_url=service.url, storage_state=login) as tab:
        yield tab
