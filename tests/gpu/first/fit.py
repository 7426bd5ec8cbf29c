"""Which GPU it is, and how many blocks and clusters of each kernel it holds at once, as the runtime says."""

import ctypes
import functools
import os
import runpy
import subprocess
import sys
import sysconfig

import torch

from first.journal import Outcome
from first.steps import ROOT

HERE = ROOT / "tests" / "gpu" / "first"
TARGET = ROOT / "build" / "gpu_first" / "libfastrnn_first.so"
COLUMNS = ("path", "cell", "precision", "pass", "hidden", "blocks", "count")


def items(rehearse):
    return ["facts", "resident"]


def run(item):
    return {"facts": facts, "resident": resident}[item]()


def facts():
    import gpu  # of benchmarks/

    return Outcome(figures=gpu.facts())


def resident():
    library().fastrnn_fit.restype = ctypes.c_char_p
    lines = library().fastrnn_fit().decode().splitlines()
    error = next((line for line in lines if line.startswith("error")), "")
    rows = [dict(zip(COLUMNS, line.split(), strict=True)) for line in lines if line != error]
    return Outcome("failed" if error else "passed", error, {"rows": rows})


@functools.cache
def library():
    """What needs nvcc, linked with the extension's own objects; on the emulated GPU, part of its library."""
    if os.environ.get("FASTRNN_REHEARSE") == "1":
        import emulated_library

        return emulated_library.load()
    torch.cuda.init()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    setup = runpy.run_path(str(ROOT / "setup.py"))
    cuda = setup["find_cuda"](setup["find_torch"]())
    folder = f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    kernels = [*(ROOT / "build" / folder).glob("csrc/cuda/*/*.o")]
    objects = [str(path) for path in kernels if path.parent.name != "streamed"]
    flags = ["-std=c++20", "-O2", "-shared", "-Xcompiler", "-fPIC", f"-I{ROOT / 'csrc'}", *cuda.architectures.split()]
    sources = [str(HERE / "fit.cpp"), str(HERE / "hold.cu")]
    subprocess.run([cuda.nvcc, *flags, *sources, *objects, "-o", str(TARGET)], check=True)
    return ctypes.CDLL(str(TARGET))
