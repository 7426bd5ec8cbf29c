"""Settings of the whole suite: markers, the visible random seed, and what every test leaves as it found it."""

import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path

import build_ahead
import garbage
import pytest
import torch
from session_seed import SEEDED, SESSION_SEED, Session

from fastrnn import _native

pytest_plugins = ("draws",)

# Teams of three threads are tested on two cores, too.
_native._C.force_usable_cores(1024)

BUILDER = pytest.StashKey()
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def pytest_report_header(config):
    isa = os.environ.get("FASTRNN_ISA", "the machine's best")
    return f"fastrnn: FASTRNN_TEST_SEED={SESSION_SEED}, FASTRNN_ISA={isa}, torch {torch.__version__}"


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="leave out what is marked as thorough: make test")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.option.quick:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("thorough")])
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    items.sort(key=build_ahead.order)


def pytest_runtestloop(session):
    """Starts what builds in the background; the loop itself is pytest's own."""
    builder = (
        build_ahead.start(session.items, session.config.option.quick) if not session.config.option.collectonly else None
    )
    session.config.stash[BUILDER] = builder
    if builder:
        session.config.add_cleanup(lambda: (build_ahead.send(builder, signal.SIGTERM), builder.wait()))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        report.sections.append(("reproduce with", f"FASTRNN_TEST_SEED={SESSION_SEED} pytest '{item.nodeid}'"))


@pytest.fixture(autouse=True)
def _seeded(request):
    torch.manual_seed(Session.seed_of(request.node.nodeid))
    request.node.stash[SEEDED] = torch.get_rng_state()


@pytest.fixture(autouse=True)
def _torch_settings_restored(request):
    """Thread count and default dtype are global in torch: a test that fails midway must not change the next.

    A test has one thread unless it asks for the `threads` fixture: torch.nn's small cases are slowed tenfold by threads
    that find their core taken, and which thread count a test checks should not depend on the machine.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(request.config.option.base_threads)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def _garbage_for_kernels(request):
    with garbage.in_memory() if request.node.get_closest_marker("isa") else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def kept_cells():
    """Where cells of one's own find their kernels: in the checkout, for other processes and the next session, too."""
    folder = Path(__file__).parents[1] / "build" / "test_cells"
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
        yield folder


@pytest.fixture
def chunks():
    """A function that has passes cut into chunks of so many rows, however short they are."""
    yield _native._C.force_chunk_rows
    _native._C.force_chunk_rows(0)


@pytest.fixture
def input_steps():
    """A function that has time loops multiply the input of so many steps at a time, of none, or as they choose (-1)."""
    yield _native._C.force_input_steps
    _native._C.force_input_steps(-1)


@pytest.fixture(params=(True, False), ids=("panels", "torch_gemm"))
def large_gemms(request):
    """Whose code multiplies what either could: our panels, or torch's GEMM. A processor chooses one of them."""
    _native._C.force_panel_gemms(request.param)
    yield request.param
    _native._C.force_panel_gemms(None)


@pytest.fixture(params=(1, 2, 3), ids=lambda n: f"threads{n}")
def threads(request, _torch_settings_restored):
    """Torch's thread count: alone, one a core, and one more than a two-core machine has."""
    torch.set_num_threads(request.param)
    with build_ahead.paused(request.config.stash.get(BUILDER, None)):
        yield request.param


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports a module of benchmarks/; none of them stays, for another folder may have one of the same name."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    for name in {path.stem for path in BENCHMARKS.glob("*.py")} & set(sys.modules):
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]
