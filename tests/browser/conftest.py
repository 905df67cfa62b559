"""One browser for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.browserlab import Chromium, Tab, open_tab, running_chromium
from tests.leaks import Resident


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
