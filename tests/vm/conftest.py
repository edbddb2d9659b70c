"""One lab for the boots and the losses; a machine that cannot hold a lab fails every test with one sentence."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol

import pytest

from tests.vm import scenarios
from tests.vm.lab import Lab
from tests.vm.net import LabUnavailable, Lease

LIMIT_S = 1200  # of one test: far more than one takes; expect.PHASE_S gives up long before
_FAILED: list[str] = []


class MakeLab(Protocol):
    def __call__(self, leases: list[Lease], **options: str) -> Lab: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "vm":
            item.add_marker(pytest.mark.timeout(LIMIT_S, method="signal"))


@pytest.fixture(scope="session", autouse=True)
def _a_terminated_run_cleans_up() -> Iterator[None]:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """A line to the terminal, past pytest's capture."""
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            print(f"  {text}", flush=True)

    return line


@pytest.fixture(scope="session")
def make_lab(say: Callable[[str], None]) -> Iterator[MakeLab]:
    labs: list[Lab] = []

    def make(leases: list[Lease], **options: str) -> Lab:
        if _FAILED:
            pytest.fail(_FAILED[0], pytrace=False)
        try:
            labs.append(Lab(leases, say, **options))
        except LabUnavailable as error:
            _FAILED.append(f"the lab cannot be had: {error}")
        if _FAILED:
            pytest.fail(_FAILED[0], pytrace=False)
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture(scope="session")
def lab(make_lab: MakeLab) -> Lab:
    """Region and rack as ``bootplane up`` runs them, with everything mirrored."""
    lab = make_lab([scenario.lease for scenario in scenarios.ALL + scenarios.LOSS])
    lab.up()
    lab.mirror()
    return lab
