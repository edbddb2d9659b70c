"""What every test shares: a cheap ``gc.collect()``."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _collections_look_at_this_module_alone() -> Iterator[None]:
    """Leak tests collect before and after; with what 2,600 tests have imported that took 0.7 s each time."""
    gc.freeze()
    yield
    gc.unfreeze()
