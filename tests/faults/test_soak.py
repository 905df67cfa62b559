"""A short soak; `./run bench soak` runs the long one."""

import os

import pytest

from tests.conftest import SEED_VARIABLE
from tests.soakfaults import FAULTS
from tests.soaklab import soaking

pytestmark = [pytest.mark.vm, pytest.mark.faults, pytest.mark.long]

CYCLES = 40
BATCH = 20


@pytest.mark.timeout(1800)
def test_nothing_is_lost_doubled_or_left() -> None:
    seed = int(os.environ[SEED_VARIABLE])
    with soaking(seed, workers=3, pause=4.0) as soak:
        while soak.counters["cycles"] < CYCLES:
            soak.batch(BATCH)
    assert soak.findings == []
    assert soak.counters["cycles whole"] > 0
    assert sum(soak.counters[f"fault: {name}"] for name in FAULTS) > 0
