"""What `make wheel` left in dist/: its size and content, and that it runs in a new environment, outside the tree."""

import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
MOST_MEGABYTES = 5  # for the CPU alone

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel():
    major, minor = sys.version_info[:2]
    (path,) = (ROOT / "dist").glob(f"*-cp{major}{minor}-*.whl")
    return path


@pytest.fixture(scope="module")
def sdist():
    (path,) = (ROOT / "dist").glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def new_python(tmp_path_factory):
    """A virtual environment that has torch and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    version = torch.__version__.split("+")[0]
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"torch=={version}"], check=True)
    return python


def test_wheel_brings_nothing_of_torch(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    cells = [name for name in names if name.startswith("fastrnn/_cells/")]
    assert cells, "the cells of fastrnn.papers are not compiled"
    libraries = [name for name in names if ".so" in name and name not in cells]
    assert len(libraries) == 1, libraries
    assert re.fullmatch(r"fastrnn/_C\..*\.so", libraries[0])
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastrnn"}
    assert "manylinux" in wheel.name


@pytest.mark.skipif(torch.version.cuda is not None, reason="kernels for GPUs are large")
def test_sizes(wheel, sdist):
    for path in (wheel, sdist):
        assert path.stat().st_size < MOST_MEGABYTES * 2**20


def test_sdist_is_the_tree(sdist):
    """All that git has, but for what is about git and its hosts."""
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in set(tracked) - packed if not name.startswith((".git", ".ci/"))} == set()


def test_installed_wheel_runs(wheel, new_python, tmp_path):
    """Outside the tree: the self-test compares every layer with torch.nn's."""
    start = time.perf_counter()
    subprocess.run([new_python, "-m", "pip", "install", "--quiet", wheel], check=True, cwd=tmp_path)
    code = "import torch, fastrnn; print(fastrnn.LSTM(4, 8)(torch.randn(3, 2, 4))[0].sum().item(), fastrnn.__file__)"
    first = subprocess.run([new_python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    print(f"\n{time.perf_counter() - start:.1f} s from pip install, with torch there, to the first result")
    assert str(ROOT) not in first.stdout
    said = subprocess.run(
        [new_python, "-m", "fastrnn", "--seconds", "0.1"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "equal torch.nn's" in said.stdout


def run_cell(python, folder, definition, **environment):
    """What an installed fastrnn says of itself on stderr when a cell of that definition runs for the first time."""
    script = folder / "cell.py"  # a function whose source can be found
    script.write_text(f"import torch, fastrnn\n{definition}\nprint(Layer(3, 4)(torch.randn(5, 2, 3))[0].shape)\n")
    found = {**os.environ, "TORCH_EXTENSIONS_DIR": str(folder / "extensions"), **environment}
    done = subprocess.run([python, script], capture_output=True, text=True, check=True, cwd=folder, env=found)
    assert "[5, 2, 4]" in done.stdout
    return [line for line in done.stderr.splitlines() if line.startswith("fastrnn: ")]  # torch misses numpy


def test_cells_of_papers_need_no_compiler(wheel, new_python, tmp_path):
    subprocess.run([new_python, "-m", "pip", "install", "--quiet", wheel], check=True, cwd=tmp_path)
    for name in ("IndRNN", "LiGRU", "MinGRU", "MinLSTM", "SLSTM", "SRU"):
        assert run_cell(new_python, tmp_path, f"Layer = fastrnn.{name}", CXX="none") == []


def test_cell_of_ones_own_is_compiled_with_the_wheels_headers(wheel, new_python, tmp_path):
    subprocess.run([new_python, "-m", "pip", "install", "--quiet", wheel], check=True, cwd=tmp_path)
    definition = "@fastrnn.cell(gates=1)\ndef Layer(x, r, h):\n    return torch.tanh(x[0] + r[0])"
    (said,) = run_cell(new_python, tmp_path, definition)
    assert re.fullmatch(r"fastrnn: compiling the cell Layer .* s", said)
    assert run_cell(new_python, tmp_path, definition) == []  # kept


@pytest.mark.long
def test_sdist_builds(sdist, new_python, tmp_path):
    tools = ["setuptools>=77", "ninja", "pybind11"]
    subprocess.run([new_python, "-m", "pip", "install", "--quiet", *tools], check=True)
    subprocess.run(
        [new_python, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", sdist],
        check=True,
        cwd=tmp_path,
    )
    assert list(tmp_path.glob("fastrnn-*.whl"))
