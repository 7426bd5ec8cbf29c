"""What a user finds after installing."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
import torch

import fastrnn

PACKAGE = Path(fastrnn.__file__).parent


@pytest.fixture
def sources(tmp_path):
    """The package as a clone has it, with nothing built."""
    leave_out = shutil.ignore_patterns("_C*.so", "__pycache__")
    return shutil.copytree(PACKAGE, tmp_path / "clone" / "fastrnn", ignore=leave_out)


@pytest.fixture
def installed(tmp_path):
    return shutil.copytree(PACKAGE, tmp_path / "site-packages" / "fastrnn")


def import_in(folder, *path):
    """Without the environment's .pth files: an editable fastrnn would lend its extension to any other's sources."""
    path = [*path, Path(torch.__file__).parent.parent]
    return subprocess.run(
        [sys.executable, "-S", "-c", "import fastrnn; print(fastrnn.__file__)"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", fastrnn.__version__)
    try:
        assert metadata.version("fastrnn") == fastrnn.__version__
    except metadata.PackageNotFoundError:
        pytest.fail("fastrnn is importable but not installed: `make venv` installs it")


def test_typed():
    assert resources.files(fastrnn).joinpath("py.typed").is_file()


def test_public_names():
    for name in fastrnn.__all__:
        assert getattr(fastrnn, name).__doc__, f"{name} has no docstring"
    assert {"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "explain"} <= set(fastrnn.__all__)


def test_runtime_needs_torch_alone():
    required = [r for r in metadata.requires("fastrnn") or [] if "extra ==" not in r]
    assert [re.match(r"[\w-]+", r)[0] for r in required] == ["torch"]


def test_sources_that_hide_the_installed_package(sources, installed):
    """As after a plain `pip install .`, where a user goes on in the clone's folder."""
    hidden = import_in(sources.parent, installed.parent)
    assert hidden.returncode != 0
    *_, what, how = hidden.stderr.splitlines()
    assert f"ImportError: fastrnn is installed in {installed}, but Python found its sources in {sources} first" in what
    assert f"Run Python in another folder, or build the sources where they are, in {sources.parent}:" in what
    assert "pip install --no-build-isolation --editable ." in how

    elsewhere = import_in(sources.parent.parent, installed.parent)
    assert elsewhere.stdout == f"{installed / '__init__.py'}\n", elsewhere.stderr


def test_sources_and_nothing_installed(sources):
    alone = import_in(sources.parent)
    assert alone.returncode != 0
    assert "ImportError: fastrnn's extension did not load" in alone.stderr
    assert "pip install --no-build-isolation ." in alone.stderr


def test_a_library_that_does_not_load(installed):
    """Its own trouble is told, though another one, which would load, is on the path, too."""
    (library,) = installed.glob("_C*.so")
    library.write_bytes(b"no library")
    broken = import_in(installed.parent, PACKAGE.parent)
    assert broken.returncode != 0
    assert "ImportError: fastrnn's extension did not load" in broken.stderr
