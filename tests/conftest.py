"""Hypothesis' settings for all tests, signals as a terminal would leave them, and a heap that is not searched anew."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

# No deadline: an example that waits for another worker, or is the first to import NumPy, is not a failure.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
# For bench/mutations.py: whether a fault is found, not the smallest example of it.
found = (Phase.explicit, Phase.generate)
settings.register_profile("faults", deadline=None, derandomize=True, database=None, phases=found)
settings.load_profile("ci" if os.environ.get("CI", "").lower() in {"1", "true"} else "default")

# A shell starts what it runs in the background with interrupts ignored, and so do all its children: the commands that
# tests interrupt would not notice. With a handler here, children start with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Eighteen thousand collected tests, and what modules keep, live to the end. Looking through them for garbage took 2 to
    9 s at a time, in which a server in a thread of the same process took its clients for ones that do not send."""
    _keep_out_of_the_search()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        _keep_out_of_the_search()


def _keep_out_of_the_search() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a server of the page answers, which ends without a traceback."""
    from tests.serving import started

    process, found = started(tmp_path_factory.mktemp("server"))
    yield found
    process.terminate()
    assert process.stderr is not None
    rest = process.stderr.read()
    process.wait(timeout=20)
    assert "Traceback" not in rest
