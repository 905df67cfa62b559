"""The page that tells which operation was exercised by which client is true.

It needs every exercise and every golden file: those that have not been carried out yet are now.
"""

from collections.abc import Mapping

import pytest

from microvmd.api.operations import load_operations
from tests.clients.coverage_page import PAGE, Evidence, read_deviations, render, untested
from tests.clients.exercises.everything import MODULES
from tests.clients.exercises.registry import Exercises
from tests.clients.live import LiveApi
from tests.clients.outcome import Outcome

# Alone, the first of these carries out everything; after the other modules, next to nothing.
pytestmark = [pytest.mark.client, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def evidence(
    exercises: Exercises,
    denials: Mapping[tuple[str, str], Outcome],
    golden_api: LiveApi,
    exchanges: Mapping[str, str],
) -> Evidence:
    assert MODULES
    exercises.run_all()
    assert denials
    assert exchanges
    return Evidence(
        exercises.world.api.served,
        golden_api.served,
        {name: client.model for name, client in exercises.clients.items()},
    )


def test_every_operation_is_tested_by_every_client(evidence: Evidence) -> None:
    assert not list(untested(evidence))


def test_deviations_name_operations() -> None:
    names = {operation.name for operation in load_operations()}
    for deviation in read_deviations():
        assert set(deviation.operations) <= names, deviation.operations
        assert deviation.aws
        assert deviation.here
        assert deviation.why


def test_page_is_current(evidence: Evidence, pytestconfig: pytest.Config) -> None:
    page = render(evidence)
    if pytestconfig.getoption("--golden-update"):
        PAGE.write_text(page)
    assert page == PAGE.read_text(), "make it anew with --golden-update, and read the difference"
