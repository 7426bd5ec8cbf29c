"""The CUDA kernels through nvcc, without a GPU: what one would load, and the machine code that it would run.

The whole extension is built with CUDA in build/cuda_compile, apart from the one that the other tests import; only what
changed compiles again. Whether its numbers are right is the business of test_cuda_emulation.py, and of tests/gpu.
"""

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import machine_code
import pytest
from test_build import (
    ISA_NAMES,
    setup_script,
    strangers_to_isa,
    symbols_that_a_torch_lacks,
    undefined_symbols,
    unstable_symbols,
)

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "cuda_compile"
LIBRARIES, OBJECTS = BUILD / "lib", BUILD / "objects"
# nvcc takes a minute for each. `make cuda-compile` has all of them compiled.
ARCHITECTURES = {"8.0": "sm_80", "9.0": "sm_90"}
if os.environ.get("FASTRNN_TEST_ARCHITECTURES") == "all":
    ARCHITECTURES = {"8.0": "sm_80", "8.6": "sm_86", "9.0": "sm_90", "10.0": "sm_100", "12.0": "sm_120"}
WITHOUT_CLUSTERS = ("sm_80", "sm_86")

TENSOR_CORES, EXACT = "0", "1"  # of csrc/cuda/kernels.h
UNITS = (16, 32)  # of a block of a cluster kernel
WHOLE, SPLIT = "1", "4"  # blocks that split a product of a persistent kernel, backward
CELLS = {"Elman<Tanh>": 1, "Elman<Relu>": 1, "Lstm": 4, "Gru": 3}  # gates
LOADS_AHEAD = 8 * 2  # kAhead of csrc/cuda/stationary/stationary_gemm.cuh, for two tiles of batch rows
# The instruction on tensor cores for each type of persistent kernel: TF32, float16 and bfloat16, all with float sums.
MMA = {"float": "HMMA.1688.F32.TF32", "__half": "HMMA.16816.F32", "__nv_bfloat16": "HMMA.16816.F32.BF16"}


@contextlib.contextmanager
def build():
    """Nobody else builds there until the caller is done with it."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(LIBRARIES, ignore_errors=True)
        shutil.copytree(ROOT / "fastrnn", LIBRARIES / "fastrnn", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        yield run_setup()


def build_ahead(quick):
    if setup_script().find_nvcc():
        with build():
            pass


def run_setup():
    # What has been compiled for the CPU need not be compiled again.
    compiled = next((ROOT / "build").glob(f"temp.*-{sys.implementation.cache_tag}"), None)
    if compiled and not OBJECTS.exists():
        shutil.copytree(compiled, OBJECTS)
    options = ["--build-lib", str(LIBRARIES), "--build-temp", str(OBJECTS)]
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", *options],
        cwd=ROOT,
        env=os.environ | {"FASTRNN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": ";".join(ARCHITECTURES)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def nvcc():
    return setup_script().find_nvcc() or pytest.skip("nvcc was not found: install CUDA's toolkit, or set CUDA_HOME")


@pytest.fixture(scope="module")
def library(nvcc):
    """The extension with CUDA, beside a copy of the package's Python. Sessions that run side by side take turns."""
    with build() as done:
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        (built,) = (LIBRARIES / "fastrnn").glob("_C*.so")
        yield built


@pytest.fixture(scope="module")
def cuobjdump():
    for name in ("cuobjdump", "nvdisasm"):
        if machine_code.nvidia_tool(name) is None:
            pytest.skip(f"{name} was not found: pip install nvidia-cuda-{name}")


@pytest.fixture(scope="module")
def kernels(library, cuobjdump):
    """Every kernel of the linked library, once for each architecture."""
    return machine_code.kernels_in(library)


WITHOUT_DRIVER = """
import torch, fastrnn
import fastrnn._native as native

assert native._C.cuda_built
ours, theirs = fastrnn.LSTM(5, 7), torch.nn.LSTM(5, 7)
ours.load_state_dict(theirs.state_dict())
input = torch.randn(4, 3, 5)
torch.testing.assert_close(ours(input)[0], theirs(input)[0])
print(native._C.__file__)
"""


def test_the_cpu_works_without_a_driver(library):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DRIVER],
        cwd=LIBRARIES,
        env=os.environ | {"PYTHONPATH": str(LIBRARIES), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(library)


def test_what_it_takes_from_other_libraries(library):
    """Of torch nothing that is unstable or not always there, of CUDA nothing that a machine without it would lack."""
    assert not unstable_symbols(library)
    assert not symbols_that_a_torch_lacks(library)
    cuda = {name: kind for name, kind in undefined_symbols(library).items() if re.match("cu[A-Z]|cuda|cublas", name)}
    assert set(cuda.values()) == {"w"}, cuda


@pytest.mark.parametrize("isa", ISA_NAMES)
def test_no_code_for_one_isa_can_reach_another(isa, library):
    assert not strangers_to_isa(isa, OBJECTS)


def test_the_same_kernels_on_every_architecture(kernels):
    names = {kernel.name for kernel in kernels}
    for architecture in ARCHITECTURES.values():
        assert [kernel.name for kernel in kernels if kernel.architecture == architecture] == sorted(names)
    streamed = itertools.product(("cell_forward", "cell_backward"), CELLS, ("double", *MMA))
    on_chip = [f"{value}, {TENSOR_CORES}" for value in MMA] + [f"float, {EXACT}"]
    persistent = itertools.product(("persistent_forward",), CELLS, on_chip)
    whole = itertools.product(("persistent_backward",), CELLS, on_chip, (WHOLE,))
    split = itertools.product(("persistent_backward",), ("Lstm", "Gru"), on_chip[:-1], (SPLIT,))
    cluster = itertools.product(("cluster_forward", "cluster_backward"), CELLS, on_chip, UNITS)
    assert {f"{kernel}<{cell}, {value}>" for kernel, cell, value in (*streamed, *persistent)} <= names
    assert {f"{kernel}<{cell}, {value}, {more}>" for kernel, cell, value, more in (*whole, *split, *cluster)} <= names


def test_nothing_is_in_local_memory(kernels):
    """A spill, or an array whose index nvcc cannot know, would go through memory at every step."""
    print(table(kernels))
    for kernel in kernels:
        assert (kernel.stack, kernel.local) == (0, 0), kernel
        assert not [name for name in kernel.instructions if name.startswith(("LDL", "STL"))], kernel


def test_shared_memory_is_dynamic(kernels):
    """The emulator sees no other; from sm_90 on CUDA takes 1 KiB for itself where a kernel uses any."""
    for kernel in kernels:
        assert kernel.shared in ((0,) if kernel.architecture in WITHOUT_CLUSTERS else (0, 1024)), kernel


def test_streamed_kernels_leave_room_for_each_other(kernels):
    """They mostly wait for memory: at least half of the threads that a multiprocessor can have must fit on it."""
    for kernel in kernels:
        if not kernel.name.startswith(("persistent", "cluster")):
            assert kernel.registers <= 64, kernel


def test_tensor_cores(kernels):
    """Kernels that keep w_hh multiply by the mma of their type, in whole pieces, or exactly; others by cuBLAS."""
    for kernel in kernels:
        found = {name: count for name, count in kernel.instructions.items() if "MMA" in name}
        if not multiplies_on_tensor_cores(kernel):
            assert not found, kernel
            continue
        path, direction, cell, value, _, blocking = on_chip(kernel).groups()
        assert list(found) == [MMA[value]], kernel
        fragments, least = least_pieces(path, direction, CELLS[cell], value, blocking)
        # Each fragment is multiplied by two tiles of batch rows.
        pieces, rest = divmod(found[MMA[value]], 2 * fragments)
        assert rest == 0, kernel
        assert pieces >= least, kernel


def on_chip(kernel):
    return re.fullmatch(r"(persistent|cluster)_(\w+)<(.*?), (\w+), (\S+?)(?:, (\d+))?>", kernel.name)


def is_empty(kernel):
    return in_clusters(kernel) and kernel.architecture in WITHOUT_CLUSTERS


def multiplies_on_tensor_cores(kernel):
    return on_chip(kernel) and on_chip(kernel)[5] != EXACT and not is_empty(kernel)


def in_clusters(kernel):
    return kernel.name.startswith("cluster") or bool(re.match(rf"persistent_backward<.*, {SPLIT}>", kernel.name))


def least_pieces(path, direction, gates, value, blocking):
    """Fragments of a piece of the weights, and how many pieces there are at least.

    Those in a thread's registers, and one more in the loop over what is in shared memory. blocking: units of a block of
    a cluster kernel, blocks that split a product of a persistent one.
    """
    if direction == "forward":  # a piece has one for each gate
        fragments, held = gates, 8 if blocking == "16" else 12
    elif path == "persistent":  # a piece has one for each block that splits the product
        fragments, held = int(blocking), 16
    else:  # dealt by rows, a tile is a piece, as deep as the block's gates
        fragments = gates * int(blocking) // (8 if value == "float" else 16)
        held = max(16, fragments)
    return fragments, held // fragments + 1


def test_no_cluster_waits_for_the_whole_gpu(kernels):
    """A barrier of the cluster does, unless it is relaxed. There is one before the first step, and a relaxed one after
    the last; in the steps there are mbarriers.

    In those of a persistent kernel a block waits twice, before it tells the others by its flag and after it saw theirs.
    """
    seen = set()
    for kernel in kernels:
        if not in_clusters(kernel) or is_empty(kernel):
            continue
        path = kernel.name.partition("_")[0]
        seen.add(path)
        assert kernel.instructions["UCGABAR_ARV"] == 2, kernel
        assert kernel.instructions["MEMBAR.ALL.GPU"] == 1 + 2 * (path == "persistent"), kernel
    assert seen == {"cluster", "persistent"}


def test_loads_are_under_way_together(kernels):
    """Where a product has many columns: each load that was waited for by itself would cost a whole latency."""
    seen = set()
    for kernel in filter(multiplies_on_tensor_cores, kernels):
        path, direction = on_chip(kernel).groups()[:2]
        if (path, direction) != ("cluster", "backward"):  # there the columns are few, and all are loaded
            seen.add((path, direction))
            assert kernel.loads_ahead >= LOADS_AHEAD, kernel
    assert len(seen) == 3


def test_steps_neither_divide_nor_ask_which_memory(kernels):
    """An IEEE division checks its operands, and calls a function for some; a load of unknown memory takes longer."""
    for kernel in filter(on_chip, kernels):
        assert not [name for name in kernel.instructions if name.startswith(("FCHK", "LD.", "ST."))], kernel


PLANTED = """
struct Params { float* out; int index; };
__global__ void planted(Params p) {
  __shared__ float shared[32];
  float local[64] = {};
  for (int i = 0; i < 99; ++i) local[p.index * i % 64] += p.out[i];
  shared[threadIdx.x] = local[p.index];
  __syncthreads();
  float c[4] = {shared[31 - threadIdx.x]};
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
               "{%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(p.index));
  const float* either = p.index > 7 ? shared : p.out;
  p.out[threadIdx.x] = c[0] / either[p.index];
}
"""


def test_what_is_planted_is_found(nvcc, cuobjdump, tmp_path):
    """Local memory, static shared memory, a tensor core instruction, a division, a load from either memory."""
    source, compiled = tmp_path / "planted.cu", tmp_path / "planted.o"
    source.write_text(PLANTED)
    command = [nvcc, "-gencode", "arch=compute_80,code=sm_80", "-c", source, "-o", compiled]
    subprocess.run(list(map(str, command)), check=True)
    (kernel,) = machine_code.kernels_in(compiled)
    assert (kernel.name, kernel.architecture, kernel.shared) == ("planted", "sm_80", 128)
    assert kernel.stack >= 256
    assert {"LDL", "STL"} <= {name.partition(".")[0] for name in kernel.instructions}
    assert kernel.instructions[MMA["float"]] == 1
    assert kernel.loads_ahead == 2
    assert {"FCHK", "LD"} <= {name.partition(".")[0] for name in kernel.instructions}


def table(kernels):
    """A line for each kernel: its registers on each architecture."""
    lines = {}
    for kernel in kernels:
        lines.setdefault(kernel.name, []).append(f"{kernel.registers:7}")
    heads = "".join(f"{name:>7}" for name in ARCHITECTURES.values())
    return "\n".join([f"\n{'registers':60}{heads}", *(f"{name:60}{''.join(cells)}" for name, cells in lines.items())])
