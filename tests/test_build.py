"""What the compiled extension may and may not contain."""

import re
import subprocess
from pathlib import Path

import pytest

import fastrnn._native as native

BUILD = Path(__file__).parent.parent / "build"


def symbols(*options_and_path):
    return subprocess.run(
        ["nm", "--demangle", *map(str, options_and_path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.parametrize(("source", "isa"), [("avx2", "Avx2"), ("avx512", "Avx512")])
def test_no_code_for_one_isa_can_reach_another(source, isa):
    """A weak symbol that does not name its instruction set could be linked into the path of a lesser one."""
    (compiled,) = BUILD.glob(f"temp*/kernels_{source}.o")
    weak = [line for line in symbols(compiled) if re.search(r" [WVu] ", line)]
    assert weak, "the templates are gone: this test looks in the wrong place"
    strangers = [line for line in weak if not re.search(rf"\b{isa}\b", line)]
    assert not strangers


def test_only_stable_symbols_of_torch():
    """Unstable C++ symbols of torch would tie a build to one version of it."""
    undefined = [line.split(" U ")[-1] for line in symbols("--dynamic", "--undefined-only", native._C.__file__)]
    assert any("aoti_torch" in name for name in undefined)
    assert not [name for name in undefined if re.search(r"\b(at|c10|torch)::", name)]
