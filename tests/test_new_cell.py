"""docs/new_cell.md as a recipe: its changes, made in a copy of the sources, give a cell that passes what cells must.

So do those of tests/four_states.md, in the same copy: as many states as a cell may have.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_programs import setting

sys.path.insert(0, str(Path(__file__).parent / "cuda"))
from emulation.emulator import cuda_include

ROOT = Path(__file__).parent.parent
PAGE, FOUR_STATES = ROOT / "docs" / "new_cell.md", ROOT / "tests" / "four_states.md"
CELLS = ("li_gru", "four_states")
COPY = ROOT / "build" / "new_cell"
# What the copy is made of, less what was built there.
PARTS = ("setup.py", "pyproject.toml", "csrc", "fastrnn", "tests")

pytestmark = pytest.mark.thorough


def changes(page):
    """File, old text and new text of every hunk on a page; a file that is new has no old text."""
    for block in re.findall(r"^```diff\n--- (\S+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        file, hunks = block
        for hunk in hunks.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            yield file, *("".join(line[1:] or "\n" for line in lines if line[0] in side) for side in (" -", " +"))


def put(path, text):
    """The file, written only where that changes it, or all that depends on it would be built again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def follow_the_pages():
    texts = {}
    for part in PARTS:
        files = [ROOT / part] if (ROOT / part).is_file() else (ROOT / part).rglob("*")
        for file in files:
            if file.is_file() and file.suffix not in (".so", ".pyc", ".o"):
                texts[str(file.relative_to(ROOT))] = file.read_text()
    for file, old, new in (*changes(PAGE), *changes(FOUR_STATES)):
        if old:
            assert texts[file].count(old) == 1, f"{file} does not hold this once:\n{old}"
            texts[file] = texts[file].replace(old, new)
        else:
            assert file not in texts
            texts[file] = new
    # The other rare cells are known to compile, and take minutes.
    for file, pattern, instead in (
        ("csrc/cells/list.h", r"(?<=ExtendedCells = )CellList<.*?>;", "CellList<LiGru>;"),
        ("tests/cases.py", r"(?<=^VARIANTS = )\(.*?^\)", repr(CELLS)),
    ):
        texts[file], times = re.subn(pattern, instead, texts[file], flags=re.DOTALL | re.MULTILINE)
        assert times == 1
    for stale in set(COPY.rglob("*.h")) - {COPY / name for name in texts}:
        stale.unlink()
    for name, text in texts.items():
        put(COPY / name, text)


def run(*command):
    environment = os.environ | {"PYTHONPATH": str(COPY)}
    done = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def passed(file, cell, but=""):
    """How many of the copy's tests of the cell passed; none may fail."""
    told = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", f"{cell} {but}")
    return int(re.search(r"(\d+) passed", told)[1])


@pytest.fixture(scope="module")
def copy():
    follow_the_pages()
    run(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace")
    return COPY


def test_page_takes_five_files_at_most():
    assert len({file for file, *_ in changes(PAGE)}) <= 5


@pytest.mark.parametrize("cell", CELLS)
def test_cell_equals_its_oracle(copy, cell):
    """Kernels and gradients, with each extra, in both directions, ragged, on threads; and gradcheck."""
    assert passed("tests/test_extras.py", cell) > 20


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.skipif(cuda_include() is None, reason="CUDA's headers were not found: install its toolkit")
def test_cell_on_the_emulated_gpu(copy, cell):
    """The one with a relu not in half types: where they round, its derivative jumps."""
    assert passed("tests/test_cuda_emulated_extras.py", cell, "and not half_types" * (cell == "li_gru")) > 5


ALONE = """
#include "cells/li_gru.h"
#include "cpu/isa/instantiate.h"

namespace fastrnn::cpu {
extern const CellKernels<float> kLiGru;
constexpr CellKernels<float> kLiGru = instantiate_extended_cell<Baseline, LiGru, float>();
}  // namespace fastrnn::cpu
"""


def test_cell_compiles_in_a_file_of_its_own(copy):
    """Against the headers alone, as cells that are compiled at run time will."""
    put(copy / "alone.cpp", ALONE)
    flags = [flag for flag in setting("CXX_FLAGS").split() if flag != "-g"]
    run("g++", *flags, "-Icsrc", "-c", "alone.cpp", "-o", "alone.o")
    assert "kLiGru" in run("nm", "-C", "alone.o")
