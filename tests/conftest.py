"""Four CPU devices, quick compilation that is kept between runs, rank promotion refused; warnings are errors."""

import gc
import importlib.util
import os
import tempfile
from pathlib import Path

import pytest

from jaxdino.core.host_memory import keep_freed
from tests.torchvision_stub import import_torchvision

# Compiling was 70 % of the suite's processor time. Without LLVM's optimisations and the newer code generator it takes a
# quarter of that, and a step up to a fifth longer. Commands that tests start have the same flags, and so choose no
# other length of vectors (jaxdino/core/processor.py). Whatever a caller sets in XLA_FLAGS comes later and wins.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters "
    "--xla_cpu_prefer_vector_width=256"
)
DEVICES = "--xla_force_host_platform_device_count="
os.environ["XLA_FLAGS"] = f"{QUICK} {DEVICES}4 {os.environ.get('XLA_FLAGS', '')}"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
CACHE = Path(tempfile.gettempdir()) / f"jaxdino-test-cache-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("MPLBACKEND", "agg")

keep_freed()
gc.freeze()  # tracing makes millions of small objects that live on: collecting them took a tenth of the time
gc.set_threshold(200_000, 20, 100)
if importlib.util.find_spec("torchvision"):
    import_torchvision()  # transformers' and timm's imports would fail at a torchvision built for another torch


def pytest_addoption(parser):
    parser.addoption("--record-parity", action="store_true", help="write convert/parity.json from the parity tests")


LONG = ("train", "test_families.py")
"""Parts of the paths of the tests that take longest, in the order in which they start."""


def pytest_collection_modifyitems(items):
    """The longest files first: workers that take a file at a time then end together."""
    items.sort(key=lambda item: next((n for n, part in enumerate(LONG) if part in item.path.parts), len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def run_devices(request):
    """Let runs use one device, unless the module sets ALL_DEVICES."""
    from jaxdino.core import sharding
    from tests import one_device

    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "ALL_DEVICES", False):
            patch.setattr(sharding, "make_mesh", one_device.make_mesh())
        yield
    forget_programs()


@pytest.fixture(autouse=True)
def typed(monkeypatch):
    """Let messages name commands as `python -m jaxdino.NAME` again after a test that types `jaxdino NAME`."""
    from jaxdino.core import command

    monkeypatch.setattr(command, "_typed", [])


MOST = 3 << 30
"""Bytes of memory of a worker from which it forgets its compiled programs at the end of a file."""


def forget_programs():
    """Free the compiled programs of earlier files: a worker had 6 GB of them near the end of the suite."""
    file = Path("/proc/self/statm")
    if file.exists() and int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture
def all_devices(monkeypatch):
    """Let the runs of a test use all four devices."""
    from jaxdino.core import sharding

    monkeypatch.setattr(sharding, "make_mesh", sharding.make_mesh.__wrapped__)
