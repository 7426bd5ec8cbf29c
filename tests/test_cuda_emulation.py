"""The CUDA kernels without a GPU (tests/cuda): every cell, type and path on the emulated GPU, in three builds.

The plain build compares numbers with a reference in C++, AddressSanitizer and UndefinedBehaviorSanitizer see what a
kernel does to memory that is not its own, and the race build sees what two threads do to the same memory unordered.
That they would see it is tested too: with faults planted in the kernels, of which every session draws a third; `make
cuda-emulate` plants all. Everything is built in build/cuda_emulation/kernels by ninja, which compiles again only what
changed. The programs run side by side, one on each core.
"""

import contextlib
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from session_seed import SESSION_SEED

sys.path.insert(0, str(Path(__file__).parent / "cuda"))

from emulation.emulator import ENVIRONMENT, ROOT, Program, build_all, cuda_include

pytestmark = pytest.mark.skipif(
    cuda_include() is None, reason="CUDA's headers were not found: install its toolkit, or set CUDA_HOME"
)

CSRC, TESTS = ROOT / "csrc", ROOT / "tests"
BUILD = ROOT / "build" / "cuda_emulation" / "kernels"
KERNELS = (*sorted((CSRC / "cuda").glob("*/*.cu")), TESTS / "cuda" / "emulated_gemm.cpp")
HOST = (
    CSRC / "cuda" / "run.cpp",
    CSRC / "cuda" / "plan.cpp",
    *(TESTS / "cuda" / f"{name}.cpp" for name in ("test_cuda_kernels", "test_plan")),
    *(TESTS / "kernels" / f"{name}.cpp" for name in ("reference", "cases")),
)
# About one case in so many fits the minutes that this file may take.
EVERY = {"plain": 12, "asan": 24, "race": 40}
FAULT_EVERY = 20
# What `make test` builds: AddressSanitizer's build takes minutes to compile.
QUICK = ("plain", "race")
# The first has no kernel that keeps w_hh on the chip. The last differs from the one before in conversions alone: it is
# not worth the minutes that a sanitizer's build takes. AddressSanitizer's is the longest: of the others a session draws
# one.
TYPES = {
    "plain": ("f64", "f32", "f16", "bf16"),
    "asan": ("f64", random.Random(SESSION_SEED).choice(("f32", "f16"))),
    "race": ("f64", "f32", "f16"),
}


# What a build says of most faults.
FINDINGS = {
    "plain": r"FAILED .* is .*, (not|but was not to be written)",
    "asan": "ERROR: AddressSanitizer",
    "race": "data race",
}


class Fault(NamedTuple):
    """What a kernel would do wrong, and the build that must say so."""

    name: str
    build: str
    file: str  # somewhere in csrc/cuda
    text: str  # stands there once
    instead: str
    finding: str = ""
    cell: str = "Lstm"  # the only one compiled, of kernels that keep w_hh on the chip

    @property
    def path(self):
        """The one that the file is of, or one of the two that share it."""
        prefix = self.file.partition("_")[0]
        if prefix in ("persistent", "persistent.cuh", "stationary", "warp", "split"):
            return "persistent"
        return "cluster" if prefix in ("cluster", "scattered") else "streamed"


PERSISTENT, BLOCK = "persistent.cuh", "persistent_block.cuh"
TILE, CELLS = "stationary_tile.cuh", "stationary_cells.cuh"
FORWARD, BACKWARD = "persistent_forward.cuh", "persistent_backward.cuh"
COPIED = "        wait_for_copies<0>();\n"
FINISHED = "        finish(s, rows.now, tile, done);\n"
MEET = "        __syncthreads();\n"
MEET_OR_LEAVE = "        if (__syncthreads_or(!in_time)) return false;\n"
FORWARD_AWAIT = "if (s > 0 && !exchange_.await(s)) return give_up();"
BACKWARD_AWAIT = "if (steps_done > 0 && !exchange_.await(steps_done)) return step_.give_up();"
FORWARD_TOLD, BACKWARD_TOLD = "        if (is_last) exchange_", "        if (tile + 1 == tiles.end) {"
POLL = "return load_relaxed(group_ + i) >="
RUNS = "if (!p.rows.include(row)) return;"
STEP_CELLS = "\n  const int64_t state = row * hidden + unit;\n  const int64_t first"

SPLIT, SPLIT_BACKWARD = "split_sums.cuh", "split_backward.cuh"
CLUSTER_FORWARD, CLUSTER_BACKWARD, EXCHANGE = "cluster_forward.cuh", "cluster_backward.cuh", "cluster_exchange.cuh"
H_AWAIT, PARTS_AWAIT = "s == 0 || exchange_.await(local, s - 1);", "s == last_ || exchange_.await(local, received);"
# Either because nothing orders them, or because the next phase begins too early.
UNAWAITED = "data race|expects a phase while the one before goes on"
EARLY = "ended while stores to it were under way"
# A block waits for another that never comes: NaN, which tests/cuda/gpu.h looks for, an error, and no such kernel again.
FOR_EVER = "waited in vain for another, and gave up"
STREAMED_SINCE = r"[\s\S]*no plan: a kernel waited in vain before"

FAULTS = (
    # Threads of a block that do not meet.
    Fault("forward_sums_unmet", "race", FORWARD, COPIED + MEET, COPIED),
    Fault("forward_cells_unmet", "race", FORWARD, MEET + FORWARD_TOLD, FORWARD_TOLD),
    Fault("backward_sums_unmet", "race", BACKWARD, COPIED + MEET, COPIED),
    Fault("backward_cells_unmet", "race", BACKWARD, MEET + BACKWARD_TOLD, BACKWARD_TOLD),
    Fault("split_cells_unmet", "race", SPLIT_BACKWARD, "__syncthreads_or(!in_time)", "!in_time"),
    Fault("pollers_unmet", "race", BLOCK, "return !__syncthreads_or(!in_time);", "return in_time;"),
    Fault("polls_unfenced", "race", BLOCK, "      fence_acquire();\n", ""),
    # Blocks that do not wait for one another.
    Fault("forward_step_unawaited", "race", FORWARD, FORWARD_AWAIT, ""),
    Fault("forward_step_before_awaited", "race", FORWARD, FORWARD_AWAIT, FORWARD_AWAIT.replace("(s)", "(s - 1)")),
    Fault("backward_step_unawaited", "race", BACKWARD, BACKWARD_AWAIT, ""),
    Fault("last_block_unawaited", "race", BLOCK, "i < gridDim.x; i +=", "i + 1 < gridDim.x; i +="),
    Fault(
        "flags_not_zeroed", "race", PERSISTENT, "cudaMemsetAsync(params.flags, 0,", "cudaMemsetAsync(params.flags, 9,"
    ),
    Fault("flag_stored_plainly", "race", BLOCK, "store_release(group_ + blockIdx.x, ", "group_[blockIdx.x] = ("),
    Fault(
        "flag_loaded_plainly",
        "race",
        BLOCK,
        POLL,
        "__nanosleep(1); " + POLL.replace("load_relaxed(group_ + i)", "static_cast<volatile uint32_t*>(group_)[i]"),
        "the flag is",
    ),
    Fault(
        "flag_never_stored",
        "plain",
        BLOCK,
        "if (threadIdx.x == 0) store",
        "if (threadIdx.x > 999) store",
        FOR_EVER + STREAMED_SINCE,
    ),
    Fault("groups_overlap", "race", TILE, "end = tiles * (blockIdx.y + 1) / gridDim.y;", "end = tiles;"),
    # Blocks that split a product.
    Fault(
        "sums_unawaited",
        "race",
        SPLIT,
        "await(int64_t n) const { return exchange_.await(0, n); }",
        "await(int64_t) const { return true; }",
        UNAWAITED,
    ),
    Fault("sums_never_received", "plain", SPLIT, "{ exchange_.received(0, n); }", "{}", FOR_EVER),
    Fault("too_few_buffers", "race", SPLIT, "ClusterExchange<4>", "ClusterExchange<2>", UNAWAITED),
    Fault("share_lost", "plain", SPLIT, "block < kSplit; ++block) sum", "block < kSplit - 1; ++block) sum"),
    Fault("share_of_another_block", "plain", SPLIT, "partial(n, cluster_rank())", "partial(n, 0)"),
    # Blocks of a cluster that do not wait for one another, and threads that do not meet in between.
    Fault("h_unawaited", "race", CLUSTER_FORWARD, H_AWAIT, "true;", UNAWAITED),
    Fault("h_before_awaited", "race", CLUSTER_FORWARD, H_AWAIT, H_AWAIT.replace("s - 1);", "s + 1);"), UNAWAITED),
    Fault("h_loaded_unmet", "race", CLUSTER_FORWARD, "load_state(tile);\n    __syncthreads();", "load_state(tile);"),
    Fault("h_multiplied_unmet", "race", CLUSTER_FORWARD, MEET_OR_LEAVE, ""),
    Fault("h_sent_unmet", "race", CLUSTER_FORWARD, FINISHED + MEET, FINISHED),
    Fault("parts_unawaited", "race", CLUSTER_BACKWARD, PARTS_AWAIT, "true;", UNAWAITED),
    Fault("grads_read_unmet", "race", CLUSTER_BACKWARD, MEET_OR_LEAVE, ""),
    Fault("grads_written_unmet", "race", CLUSTER_BACKWARD, "tile);\n" + MEET, "tile);\n"),
    Fault("one_buffer", "race", EXCHANGE, "n % kBuffers; }", "0; }", UNAWAITED),
    Fault("cluster_unmet", "race", EXCHANGE, "    cluster_sync();\n", "", "data race|not initialised"),
    Fault("too_few_bytes", "plain", EXCHANGE, "* row_bytes_);", "* row_bytes_ - 16);", EARLY),
    Fault("too_many_bytes", "plain", EXCHANGE, "* row_bytes_);", "* row_bytes_ + 16);", FOR_EVER),
    Fault("never_expected", "plain", EXCHANGE, "if (n < sends_) mbar", "if (n < 0) mbar", FOR_EVER),
    Fault(
        "last_part_lost", "plain", CLUSTER_BACKWARD, "static_cast<int>(gridDim.x);", "static_cast<int>(gridDim.x) - 1;"
    ),
    Fault(
        "padding_unwritten", "race", CLUSTER_FORWARD, "if (at >= p_.dims.batch) h(0", "if (false) h(0", "nobody wrote"
    ),
    Fault("last_tile_lost", "plain", "scattered_gemm.cuh", "- warp_ + kWarps - 1) /", "- warp_) /", FOR_EVER),
    Fault("idle_rows_run", "plain", CLUSTER_FORWARD, "+ row < rows.running) {", "+ row < p_.dims.batch) {"),
    Fault(
        "idle_gates_unwritten",
        "race",
        CLUSTER_BACKWARD,
        "if (row >= rows.now.running) {",
        "if (false) {",
        "nobody wrote",
    ),
    Fault("last_c_lost", "plain", CLUSTER_FORWARD, "if (row < rows.after.running)", "if (row <= rows.after.running)"),
    # Copies behind the kernel's back.
    Fault("copies_unawaited", "race", FORWARD, COPIED, "", "an asynchronous access still under way"),
    Fault(
        "copy_into_inputs_in_use",
        "race",
        BACKWARD,
        "        step_.finish(",
        "        step_.fetch(rows, tile);\n        step_.finish(",
        "an asynchronous access still under way",
    ),
    # Wrong rows, columns and numbers.
    Fault("last_piece_lost", "plain", "warp_sums.cuh", "(warp_ % kColumnGroups + 1)", "(warp_ % kColumnGroups)"),
    Fault(
        "first_row_of_wrong_gate",
        "plain",
        "persistent_backward_step.cuh",
        "gate_row >= gate * hidden)",
        "gate_row > gate * hidden)",
        cell="Gru",
    ),
    Fault(
        "hy_of_first_row_lost",
        "plain",
        CELLS,
        "row >= rows.after.running",
        "row > rows.after.running",
    ),
    Fault(
        "tile_past_the_batch",
        "asan",
        FORWARD,
        "const bool runs = row < rows.now.running, is_last",
        "const bool runs = true, is_last",
    ),
    Fault("row_past_the_batch", "asan", "pointwise.cuh", "return row < (device_count", "return row <= (device_count"),
    Fault(
        "start_of_joining_rows",
        "plain",
        "cell_backward.cuh",
        "ran_before = p.rows_before.include(row)",
        "ran_before = true",
    ),
    Fault(
        "rows_that_ended_go_on",
        "plain",
        "cell_forward.cuh",
        RUNS + STEP_CELLS,
        "if (row >= p.rows.count) return;" + STEP_CELLS,
    ),
)
DRAWN_FAULTS = random.Random(SESSION_SEED).sample(FAULTS, len(FAULTS) // 3)


def plant(fault):
    """The kernels of one type with the fault, in a copy of csrc of links to all that is as it was."""
    folder = BUILD / "faults" / fault.name
    originals = {path.name: path for path in (CSRC / "cuda").rglob("*.*")}
    text = originals[fault.file].read_text()
    assert text.count(fault.text) == 1, f"{fault.name}: {fault.file} does not hold its text once"
    source, table = f"{fault.path}_f16.cu", f"{fault.path}.cuh"
    changed = {name: originals[name].read_text() for name in (source, table)}
    changed[fault.file] = text.replace(fault.text, fault.instead)
    if fault.path != "streamed":
        changed[table] = changed[table].replace("(PlainCells{})", f"(CellList<{', '.join([fault.cell] * 4)}>{{}})")
    for original in {*CSRC.iterdir(), *originals.values()} - {CSRC / "cuda"}:
        copy = folder / original.relative_to(CSRC)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = changed.get(original.name)
        if text is None and not (copy.is_symlink() and copy.readlink() == original):
            copy.unlink(missing_ok=True)
            copy.symlink_to(original)
        elif text is not None and (copy.is_symlink() or not copy.exists() or copy.read_text() != text):
            copy.unlink(missing_ok=True)
            copy.write_text(text)
    return folder / originals[source].relative_to(CSRC)


def type_of(kernel):
    """The one type of a file of kernels, or None."""
    found = re.search(r"_(f64|f32|f16|bf16)(_exact)?$", kernel.stem)
    return found and found[1]


def program(name, variant, kernels=KERNELS):
    """Kernels of types that the variant does not run are compiled as the host's code is; never one with a fault."""
    idle = tuple(kernel for kernel in kernels if kernel in KERNELS and type_of(kernel) not in (None, *TYPES[variant]))
    return Program(f"{name}_{variant}", variant, tuple(each for each in kernels if each not in idle), HOST + idle)


def with_fault(fault):
    planted = plant(fault)
    # The planted one first: of functions that other types' kernels have too, the linker takes the first.
    others = [kernel for kernel in KERNELS if kernel.name != planted.name]
    return program(fault.name, fault.build, (planted, *others))


def build_kernels(variants):
    build_all(BUILD, [program("test_cuda_kernels", variant) for variant in variants])


def build_faulty_kernels(faults):
    build_all(BUILD, [with_fault(fault) for fault in faults], "faults.ninja")


def build_ahead(quick):
    if cuda_include():
        build_kernels(QUICK if quick else EVERY)
        if not quick:
            build_faulty_kernels(DRAWN_FAULTS)


@pytest.fixture(scope="module")
def products():
    sources = (CSRC / "cuda" / "common" / "gemm.cpp", TESTS / "cuda" / "test_gemm.cpp")
    build_all(BUILD, [Program("test_gemm", "asan", sources)], "gemm.ninja")


def run(name, *arguments):
    return subprocess.run(
        [BUILD / name, *arguments],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def collected(request, test):
    """What the session's tests of that name, in the module that asks, are to be called with."""
    of_module = (item for item in request.session.items if item.path == request.path)
    return [item.callspec.params for item in of_module if item.originalname == test]


@contextlib.contextmanager
def started(commands):
    """The runs of these commands, of which one at a time is under way on each core, in their order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {command: pool.submit(run, *command) for command in commands}
        pool.shutdown(cancel_futures=True)


def kernel_command(variant, path, value):
    options = ("--path", path, "--type", value, "--seed", str(SESSION_SEED), "--every", str(EVERY[variant]))
    return f"test_cuda_kernels_{variant}", *options


def fault_command(fault):
    cell = () if fault.path == "streamed" else ("--cell", fault.cell.lower())
    return f"{fault.name}_{fault.build}", "--path", fault.path, "--type", "f16", "--every", str(FAULT_EVERY), *cell


def types_on(path, variant):
    return TYPES[variant][0 if path == "streamed" else 1 :]


@pytest.fixture(scope="module")
def kernel_runs(request):
    calls = collected(request, "test_kernels")
    build_kernels({call["variant"]: None for call in calls})
    with started([kernel_command(**call, value=value) for call in calls for value in types_on(**call)]) as runs:
        yield runs


@pytest.fixture(scope="module")
def fault_runs(request):
    faults = [call["fault"] for call in collected(request, "test_planted_fault_is_found")]
    build_faulty_kernels(faults)
    with started(map(fault_command, faults)) as runs:
        yield runs


@pytest.mark.parametrize("path", ("streamed", "persistent", "cluster"))
@pytest.mark.parametrize(
    "variant", [pytest.param(variant, marks=() if variant in QUICK else pytest.mark.thorough) for variant in EVERY]
)
def test_kernels(kernel_runs, variant, path):
    for value in types_on(path, variant):
        done = kernel_runs[kernel_command(variant, path, value)].result()
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[:6000] + output[6000:][-1000:]  # a sanitizer's report, the case at its end
        kinds = ("", "exact ") if value == "f32" and path != "streamed" else ("",)
        for kind in kinds:
            assert re.search(rf"{value} {kind}{path}: [1-9]\d* cases, 0 failures", output), output


@pytest.mark.thorough
def test_products(products):
    """gemm.cpp, whose place emulated_gemm.cpp takes in all other programs."""
    done = run("test_gemm")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name, marks=() if fault in DRAWN_FAULTS else pytest.mark.long) for fault in FAULTS],
)
def test_planted_fault_is_found(fault_runs, fault):
    done = fault_runs[fault_command(fault)].result()
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert re.search(fault.finding or FINDINGS[fault.build], output), output[:6000]
