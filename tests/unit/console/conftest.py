"""A console of a test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.consolelab import ConsoleLab, console_lab


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ConsoleLab]:
    async with console_lab(tmp_path) as found:
        yield found
