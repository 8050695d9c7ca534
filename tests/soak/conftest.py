"""Options of the soak suite. Its tests have the marker `soak` and run only if `-m` names it."""

import tempfile
from pathlib import Path

import pytest

OPTIONS = {
    "mutations": (2000, "mutants of each reader"),
    "kills": (20, "random kills of training runs"),
    "seed": (0, "seed of mutants and kills"),
    "steps": (10_000, "steps of the long run"),
    "validations": (500, "validations of the long run"),
}
"""{option: (default, meaning)}."""


def pytest_addoption(parser):
    group = parser.getgroup("soak", "the suite in tests/soak, with -m soak")
    for name, (default, meaning) in OPTIONS.items():
        group.addoption(f"--{name}", type=int, default=default, help=f"{meaning} (default: {default})")
    group.addoption("--reader", action="append", help="only this reader; may be given several times")
    group.addoption("--keep", help="folder for the inputs of failures (default: jaxdino-soak in the temporary folder)")


def pytest_collection_modifyitems(config, items):
    """Leave out the long tests unless `-m` says soak."""
    if "soak" in (config.getoption("markexpr") or ""):
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def soak(request):
    """Return the value of an option: the given one, or its default if this folder was not named on the command line."""

    def value(name):
        return request.config.getoption(f"--{name}", OPTIONS[name][0])

    return value


@pytest.fixture(scope="session")
def keep(request) -> Path:
    """Return the folder for the inputs of failures."""
    return Path(request.config.getoption("--keep", None) or Path(tempfile.gettempdir()) / "jaxdino-soak")
