"""What several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The first example pays for imports and for a busy machine; time is not what these tests are about.
settings.register_profile("adaloc", deadline=None, derandomize=True)
settings.load_profile("adaloc")

_SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Finds a third party's file that is kept beside the repository; skips the test where it is not."""

    def find(name: str) -> Path:
        path = _SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"the shared data set is not here: {path}")
        return path

    return find
