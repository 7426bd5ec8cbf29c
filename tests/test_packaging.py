"""What a user finds after installing."""

import re
from importlib import metadata, resources

import pytest

import fastrnn


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
