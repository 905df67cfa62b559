"""Every byte of the answers that matters, held against `golden/`.

``pytest tests/clients/test_golden.py --golden-update`` writes the files anew. The difference is
then what a reviewer looks at: where a file says "as recorded", the real service was seen to answer
so, and the difference is a fault until a newer recording says otherwise.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.clients.exercises.registry import OFFERED
from tests.clients.live import LiveApi
from tests.clients.served import RAW

pytestmark = pytest.mark.client

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.http"))


@pytest.mark.parametrize("name", NAMES)
def test_exchange(exchanges: Mapping[str, str], name: str) -> None:
    assert name in exchanges, "recorded no more: --golden-update removes it"
    assert exchanges[name] == (GOLDEN / f"{name}.http").read_text()


def test_every_exchange_has_a_file(exchanges: Mapping[str, str]) -> None:
    assert sorted(exchanges) == sorted(path.stem for path in GOLDEN.glob("*.http"))


def test_every_operation_is_among_them(golden_api: LiveApi, exchanges: Mapping[str, str]) -> None:
    assert exchanges
    for name in OFFERED:
        assert golden_api.served.succeeded(RAW, name), name
        assert golden_api.served.errors([RAW], name), name
