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
from conftest import SESSION_SEED

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
    *(TESTS / "cuda" / f"{name}.cpp" for name in ("test_cuda_kernels", "test_dispatch")),
    *(TESTS / "kernels" / f"{name}.cpp" for name in ("reference", "cases")),
)
# About one case in so many fits the minutes that this file may take.
EVERY = {"plain": 4, "asan": 12, "race": 20}


class Fault(NamedTuple):
    """What a kernel would do wrong, and which build must say so."""

    name: str
    file: str  # in csrc/cuda
    text: str  # stands there once
    instead: str
    build: str
    says: str
    path: str = "persistent"


WRONG = r"FAILED .* is .*, (not|but was not to be written)"
RACE = r"FAILED .* data race"
ADDRESS = "ERROR: AddressSanitizer"
FORWARD, BACKWARD, BLOCK = "persistent_forward.cuh", "persistent_backward.cuh", "persistent_block.cuh"
MEETING = "        __syncthreads();\n"
FAULTS = (
    Fault(
        "forward_no_meeting_after_product",
        FORWARD,
        "        wait_for_copies<0>();\n" + MEETING,
        "        wait_for_copies<0>();\n",
        "race",
        RACE,
    ),
    Fault(
        "forward_no_meeting_after_cells",
        FORWARD,
        "        finish(s, tile, x_tile(buffer));\n" + MEETING,
        "        finish(s, tile, x_tile(buffer));\n",
        "race",
        RACE,
    ),
    Fault(
        "backward_no_meeting_after_product",
        BACKWARD,
        "        wait_for_copies<0>();\n" + MEETING,
        "        wait_for_copies<0>();\n",
        "race",
        RACE,
    ),
    Fault(
        "backward_no_meeting_after_cells",
        BACKWARD,
        "        finish(s, tile, inputs(buffer));\n" + MEETING,
        "        finish(s, tile, inputs(buffer));\n",
        "race",
        RACE,
    ),
    Fault(
        "forward_no_wait_for_blocks",
        FORWARD,
        "if (s > 0) exchange_.await(product_.begin(), product_.end(), s);",
        "",
        "race",
        RACE,
    ),
    Fault(
        "forward_wait_for_step_before",
        FORWARD,
        "exchange_.await(product_.begin(), product_.end(), s);",
        "exchange_.await(product_.begin(), product_.end(), s - 1);",
        "race",
        RACE,
    ),
    Fault(
        "backward_no_wait_for_blocks",
        BACKWARD,
        "if (steps_done > 0) exchange_.await(product_.begin(), product_.end(), steps_done);",
        "",
        "race",
        RACE,
    ),
    Fault("wait_for_one_block_less", BLOCK, "i * kUnitsPerBlock < end", "(i + 1) * kUnitsPerBlock < end", "race", RACE),
    Fault("no_meeting_of_polling_lanes", BLOCK, "    __syncwarp();\n", "", "race", RACE),
    Fault(
        "plain_store_of_flag",
        BLOCK,
        "store_release(group_ + blockIdx.x, static_cast<uint32_t>(steps_done));",
        "group_[blockIdx.x] = static_cast<uint32_t>(steps_done);",
        "race",
        RACE,
    ),
    Fault(
        "stale_flags",
        "persistent.cuh",
        "check(cudaMemsetAsync(flags, 0,",
        "check(cudaMemsetAsync(flags, 9,",
        "race",
        RACE,
    ),
    Fault("overlapping_groups", BLOCK, "end = tiles * (blockIdx.y + 1) / gridDim.y;", "end = tiles;", "race", RACE),
    Fault(
        "no_wait_for_copies",
        FORWARD,
        "        wait_for_copies<0>();\n",
        "",
        "race",
        "FAILED .* a copy_async still under way",
    ),
    Fault(
        "copy_into_buffer_in_use",
        BACKWARD,
        "fetch(s - 1, tiles_.begin, buffer ^ 1);",
        "fetch(s - 1, tiles_.begin, buffer);",
        "plain",
        WRONG,
    ),
    Fault(
        "nobody_announces",
        BLOCK,
        "if (threadIdx.x == 0) store_release",
        "if (threadIdx.x == 1000) store_release",
        "plain",
        "FAILED .* deadlock",
    ),
    Fault(
        "lost_last_piece",
        "persistent_product.cuh",
        "pieces_(static_cast<int>(depth / kDepth * (warp_ + 1) / kWarps - first_)),",
        "pieces_(static_cast<int>(depth / kDepth * warp_ / kWarps - first_)),",
        "plain",
        WRONG,
    ),
    Fault(
        "wrong_channel_of_gate",
        BACKWARD,
        "if (gate_row >= gate * hidden_)",
        "if (gate_row > gate * hidden_)",
        "plain",
        WRONG,
    ),
    Fault(
        "hy_of_rows_that_go_on",
        FORWARD,
        "if (row >= running_rows(p_.steps, s + 1)) p_.hy[state] = h;",
        "if (row > running_rows(p_.steps, s + 1)) p_.hy[state] = h;",
        "plain",
        WRONG,
    ),
    Fault(
        "tile_past_the_batch",
        FORWARD,
        "    if (row >= running_rows(p_.steps, s)) return;\n    A x[",
        "    A x[",
        "asan",
        ADDRESS,
    ),
    Fault(
        "row_past_the_batch",
        "pointwise.cuh",
        "return row < (device_count ? *device_count : count);",
        "return row <= (device_count ? *device_count : count);",
        "asan",
        ADDRESS,
        "streamed",
    ),
    Fault(
        "state_of_joining_rows",
        "streamed_backward.cuh",
        "const bool from_start = !p.rows_before.include(row);",
        "const bool from_start = false;",
        "plain",
        WRONG,
        "streamed",
    ),
    Fault(
        "state_of_rows_that_ended",
        "streamed_forward.cuh",
        "  if (!p.rows.include(row)) return;\n  const int64_t state = row * hidden + unit;",
        "  if (row >= p.rows.count) return;\n  const int64_t state = row * hidden + unit;",
        "plain",
        WRONG,
        "streamed",
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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_found(faulty_kernels, fault):
    done = run(f"{fault.name}_{fault.build}", "--path", fault.path, "--type", "f16", "--every", 40)
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert re.search(fault.says, output), output[:6000]
