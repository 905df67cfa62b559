"""One running API for all client tests."""

from collections.abc import Iterator

import pytest

from tests.clients.live import LiveApi, live_api


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("api")) as found:
        yield found
