"""The CUDA kernels without a GPU (tests/cuda): every cell, type and path on the emulated GPU, in three builds.

The plain build compares numbers with a reference in C++, AddressSanitizer and UndefinedBehaviorSanitizer see what a
kernel does to memory that is not its own, and the race build sees what two threads do to the same memory unordered.
That they would see it is tested too: with faults planted in the kernels. Everything is built in
build/cuda_emulation/kernels by ninja, which compiles again only what changed.
"""

import os
import re
import subprocess
import sys
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
KERNELS = (*sorted((CSRC / "cuda").glob("*.cu")), TESTS / "cuda" / "emulated_gemm.cpp")
HOST = (
    CSRC / "cuda" / "dispatch.cpp",
    CSRC / "cuda" / "plan.cpp",
    *(TESTS / "cuda" / f"{name}.cpp" for name in ("test_cuda_kernels", "test_plan")),
    *(TESTS / "kernels" / f"{name}.cpp" for name in ("reference", "cases")),
)
# About one case in so many fits the minutes that this file may take.
EVERY = {"plain": 4, "asan": 12, "race": 20}


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
    file: str  # in csrc/cuda
    text: str  # stands there once
    instead: str
    finding: str = ""

    @property
    def path(self):
        return "persistent" if self.file.startswith("persistent") else "streamed"


PERSISTENT, BLOCK, PRODUCT = "persistent.cuh", "persistent_block.cuh", "persistent_product.cuh"
FORWARD, BACKWARD = "persistent_forward.cuh", "persistent_backward.cuh"
COPIED = "        wait_for_copies<0>();\n"
FORWARD_CELLS, BACKWARD_CELLS = (
    "        finish(s, tile, x_tile(buffer));\n",
    "        finish(s, tile, inputs(buffer));\n",
)
MEET = "        __syncthreads();\n"
FORWARD_AWAIT = "if (s > 0) exchange_.await(product_.begin(), product_.end(), s);"
BACKWARD_AWAIT = "if (steps_done > 0) exchange_.await(product_.begin(), product_.end(), steps_done);"
POLL = "while (load_acquire(flag) < static_cast<uint32_t>(steps_done)) {"
RUNS = "if (!p.rows.include(row)) return;"
STEP_CELLS = "\n  const int64_t state = row * hidden + unit;\n  const int64_t first"

FAULTS = (
    # Threads of a block that do not meet.
    Fault("forward_sums_unmet", "race", FORWARD, COPIED + MEET, COPIED),
    Fault("forward_cells_unmet", "race", FORWARD, FORWARD_CELLS + MEET, FORWARD_CELLS),
    Fault("backward_sums_unmet", "race", BACKWARD, COPIED + MEET, COPIED),
    Fault("backward_cells_unmet", "race", BACKWARD, BACKWARD_CELLS + MEET, BACKWARD_CELLS),
    Fault("polling_lanes_unmet", "race", BLOCK, "    __syncwarp();\n", ""),
    # Blocks that do not wait for one another.
    Fault("forward_step_unawaited", "race", FORWARD, FORWARD_AWAIT, ""),
    Fault("forward_step_before_awaited", "race", FORWARD, FORWARD_AWAIT, FORWARD_AWAIT.replace(", s);", ", s - 1);")),
    Fault("backward_step_unawaited", "race", BACKWARD, BACKWARD_AWAIT, ""),
    Fault("last_block_unawaited", "race", BLOCK, "i * kUnitsPerBlock < end", "(i + 1) * kUnitsPerBlock < end"),
    Fault("flags_not_zeroed", "race", PERSISTENT, "check(cudaMemsetAsync(flags, 0,", "check(cudaMemsetAsync(flags, 9,"),
    Fault("flag_stored_plainly", "race", BLOCK, "store_release(group_ + blockIdx.x, ", "group_[blockIdx.x] = ("),
    Fault(
        "flag_loaded_plainly",
        "race",
        BLOCK,
        POLL,
        POLL.replace("load_acquire(flag)", "*static_cast<const volatile uint32_t*>(flag)") + " __nanosleep(1);",
        "the flag is",
    ),
    Fault(
        "flag_never_stored", "plain", BLOCK, "if (threadIdx.x == 0) store", "if (threadIdx.x > 999) store", "deadlock"
    ),
    Fault("groups_overlap", "race", BLOCK, "end = tiles * (blockIdx.y + 1) / gridDim.y;", "end = tiles;"),
    # Copies behind the kernel's back.
    Fault("copies_unawaited", "race", FORWARD, COPIED, "", "an asynchronous access still under way"),
    Fault("copy_into_buffer_in_use", "plain", BACKWARD, "begin, buffer ^ 1);\n        }", "begin, buffer);\n        }"),
    # Wrong rows, columns and numbers.
    Fault("last_piece_lost", "plain", PRODUCT, "* (warp_ + 1) / kWarps - first_", "* warp_ / kWarps - first_"),
    Fault("first_row_of_wrong_gate", "plain", BACKWARD, "gate_row >= gate * hidden_", "gate_row > gate * hidden_"),
    Fault(
        "hy_of_first_row_lost",
        "plain",
        FORWARD,
        "row >= running_rows(p_.steps, s + 1)",
        "row > running_rows(p_.steps, s + 1)",
    ),
    Fault(
        "tile_past_the_batch", "asan", FORWARD, "    if (row >= running_rows(p_.steps, s)) return;\n    A x", "    A x"
    ),
    Fault("row_past_the_batch", "asan", "pointwise.cuh", "return row < (device_count", "return row <= (device_count"),
    Fault("start_of_joining_rows", "plain", "cell_backward.cuh", ": p.rows_before.include(row) ?", ": true ?"),
    Fault(
        "rows_that_ended_go_on",
        "plain",
        "cell_forward.cuh",
        RUNS + STEP_CELLS,
        "if (row >= p.rows.count) return;" + STEP_CELLS,
    ),
)


def plant(fault):
    """The kernels of one type with the fault, in a copy of csrc of links to all that is as it was."""
    folder = BUILD / "faults" / fault.name
    cuda = folder / "cuda"
    cuda.mkdir(parents=True, exist_ok=True)
    text = (CSRC / "cuda" / fault.file).read_text()
    assert text.count(fault.text) == 1, f"{fault.name}: {fault.file} does not hold its text once"
    source = f"{fault.path}_f16.cu"
    changed = {fault.file: text.replace(fault.text, fault.instead), source: (CSRC / "cuda" / source).read_text()}
    for original in (*CSRC.iterdir(), *(CSRC / "cuda").iterdir()):
        copy = folder / original.relative_to(CSRC)
        if original.name not in changed:
            if not copy.exists():
                copy.symlink_to(original)
        elif copy.is_symlink() or not copy.exists() or copy.read_text() != changed[original.name]:
            copy.unlink(missing_ok=True)
            copy.write_text(changed[original.name])
    return cuda / source


def program(name, variant, kernels=KERNELS):
    return Program(f"{name}_{variant}", variant, kernels, HOST)


def with_fault(fault):
    planted = plant(fault)
    # The planted one first: of functions that other types' kernels have too, the linker takes the first.
    others = [kernel for kernel in KERNELS if kernel.name != planted.name]
    return program(fault.name, fault.build, (planted, *others))


@pytest.fixture(scope="module")
def kernels():
    build_all(BUILD, [program("test_cuda_kernels", variant) for variant in EVERY])


@pytest.fixture(scope="module")
def products():
    sources = (CSRC / "cuda" / "gemm.cpp", TESTS / "cuda" / "test_gemm.cpp")
    build_all(BUILD, [Program("test_gemm", "asan", sources)], "gemm.ninja")


@pytest.fixture(scope="module")
def faulty_kernels(kernels):
    build_all(BUILD, [with_fault(fault) for fault in FAULTS], "faults.ninja")


def run(name, *arguments):
    return subprocess.run(
        [BUILD / name, *map(str, arguments)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("path", ("streamed", "persistent"))
@pytest.mark.parametrize("variant", EVERY)
def test_kernels(kernels, variant, path):
    done = run(f"test_cuda_kernels_{variant}", "--path", path, "--seed", SESSION_SEED, "--every", EVERY[variant])
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[:6000] + output[6000:][-1000:]  # a sanitizer's report, and the case at its end
    assert len(re.findall(rf"{path}: [1-9]\d* cases, 0 failures", output)) == (4 if path == "streamed" else 3), output


def test_products(products):
    """gemm.cpp, whose place emulated_gemm.cpp takes in all other programs."""
    done = run("test_gemm")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_found(faulty_kernels, fault):
    done = run(f"{fault.name}_{fault.build}", "--path", fault.path, "--type", "f16", "--every", 40)
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert re.search(fault.finding or FINDINGS[fault.build], output), output[:6000]
