"""The kernels without torch or Python (tests/kernels), compiled for 64-bit Arm as the extension is, on an emulated one.

The programs are static, so that the emulator needs no libraries of the other machine. No sanitizer: that a kernel goes
astray shows in the guarded memory of tests/kernels/guarded.h. The emulator has the host's order of memory accesses, so
the teams' synchronisation is ThreadSanitizer's to judge (test_kernels_sanitized.py). Everything is built in
build/kernel_tests_aarch64.
"""

import os
import re
import shutil

import pytest
from kernel_programs import ROOT, SOURCES, Programs, kernel_test, run, run_kernels
from session_seed import SESSION_SEED

pytestmark = pytest.mark.thorough

COMPILER, OBJDUMP, EMULATOR = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64"


@pytest.fixture(scope="module")
def build():
    """Builds a program or an object; skips without the tools, or fails with FASTRNN_TEST_AARCH64=1."""
    missing = [tool for tool in (COMPILER, OBJDUMP, EMULATOR) if shutil.which(tool) is None]
    if missing:
        end = pytest.fail if os.environ.get("FASTRNN_TEST_AARCH64") == "1" else pytest.skip
        end(f"{', '.join(missing)} not found (Debian, Ubuntu: apt install g++-aarch64-linux-gnu qemu-user)")
    programs = Programs(ROOT / "build" / "kernel_tests_aarch64", COMPILER)
    programs.add("test_kernels", kernel_test("baseline"), link="-static -fopenmp")
    programs.add("test_vector_math", [SOURCES / "test_vector_math.cpp"], link="-static")
    return programs.build


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.long), 60])
def test_kernels(build, every):
    """The cases of tests/kernels/cases.cpp, each on one thread and on teams that split the batch and the units."""
    run_kernels("neon", EMULATOR, build("test_kernels"), "--every", every)


@pytest.mark.long
def test_vector_math(build):
    """The elementwise functions as on the other instruction sets; f64's yardstick of 128 bits makes it slow."""
    run(EMULATOR, build("test_vector_math"), SESSION_SEED)


def test_tiles_are_vector_code(build):
    """A register tile adds each vector of products to its sums by an instruction of its own, and calls nothing."""
    kernels = build("test_kernels.objects/kernels_baseline.o")
    listing = run(OBJDUMP, "--disassemble", "--demangle", "--no-show-raw-insn", kernels)
    tiles = re.findall(r"^\w+ <.*\bmultiply_tile<(.*, (\d+), (\d+))>\(.*:\n((?:.+\n)+)", listing, re.MULTILINE)
    assert tiles, "the tiles are gone: this test looks in the wrong place"
    for tile, rows, vectors, code in tiles:
        fused = re.findall(r"\tfmla\tv", code)
        assert len(fused) >= int(rows) * int(vectors), tile
        assert not re.search(r"\t(blr?|fmul|fadd|fmadd)\t", code), tile
