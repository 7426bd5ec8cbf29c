"""The kernels without torch or Python (tests/kernels): under sanitizers on every instruction set, and their exp, tanh.

AddressSanitizer and UndefinedBehaviorSanitizer see what a kernel does to memory that is not its own, ThreadSanitizer
what two members of a team do to the same memory; the numbers are compared with a reference in C++. Everything is built
in build/kernel_tests.
"""

import os
import subprocess

import pytest
from kernel_programs import ROOT, SOURCES, Programs, isa_flags, kernel_test, kernels_source, run, run_kernels
from session_seed import SESSION_SEED
from test_explain import ISAS, best_isa

pytestmark = pytest.mark.thorough

HERE = ISAS[: ISAS.index(best_isa()) + 1]
COMPILER = os.environ.get("CXX", "g++")

KERNELS = {"sse2": "baseline", "avx2": "avx2", "avx512": "avx512"}


def programs():
    here = Programs(ROOT / "build" / "kernel_tests", COMPILER)
    sources = kernel_test(*KERNELS.values())
    asan = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
    here.add("asan/test_kernels", sources, asan, "-fopenmp")
    # ThreadSanitizer does not see how GCC's OpenMP library synchronises, so its program brings the threads itself.
    here.add("tsan/test_kernels", [*sources, SOURCES / "openmp_on_std_thread.cpp"], "-O1 -g -fsanitize=thread")
    for isa in ISAS:
        here.add(f"vector_math/{isa}", [SOURCES / "test_vector_math.cpp"], isa_flags(kernels_source(KERNELS[isa])))
    return here


@pytest.mark.long
@pytest.mark.parametrize("isa", HERE)
def test_kernels_under_address_and_undefined(isa):
    """Every case of tests/kernels/cases.cpp, each on one thread and on teams that split the batch and the units."""
    run_kernels(isa, programs().build("asan/test_kernels"), UBSAN_OPTIONS="print_stacktrace=1")


@pytest.mark.long
@pytest.mark.parametrize("isa", HERE)
def test_teams_under_thread(isa):
    if "clang" in subprocess.run([*COMPILER.split(), "--version"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("tests/kernels/openmp_on_std_thread.cpp stands in for GCC's OpenMP library alone")
    program = programs().build("tsan/test_kernels")
    run_kernels(isa, program, "--teams", "--every", 10, TSAN_OPTIONS="halt_on_error=1")


@pytest.mark.parametrize("isa", HERE)
def test_vector_math(isa):
    """The elementwise functions over every exponent, and of the special values; built as the extension is."""
    run(programs().build(f"vector_math/{isa}"), SESSION_SEED)
