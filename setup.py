"""Builds the extension fastrnn._C with ninja: one object a source, each with its own instruction-set flags.

Everything about the package that is not about compiling stands in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

SOURCES = [
    "csrc/python.cpp",
    "csrc/ops/register.cpp",
    "csrc/ops/layer.cpp",
    "csrc/ops/shape.cpp",
    "csrc/cpu/dispatch.cpp",
    "csrc/cpu/team.cpp",
    "csrc/cpu/kernels_baseline.cpp",
]
X86_SOURCES = ["csrc/cpu/kernels_avx2.cpp", "csrc/cpu/kernels_avx512.cpp"]
ISA_FLAGS = {
    "csrc/cpu/kernels_avx2.cpp": "-mavx2 -mfma",
    "csrc/cpu/kernels_avx512.cpp": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512",
}
# The kernels neither read errno nor trap, which lets comparisons and selects become vector code.
CXX_FLAGS = (
    "-std=c++20 -O3 -fPIC -fvisibility=hidden -fopenmp -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi"
)
# One build serves torch 2.11 and later.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"

TORCH_MISSING = (
    "torch is not installed in this environment. Install it first, then build without isolation: "
    "pip install --no-build-isolation ."
)


def fail(message: str) -> None:
    sys.exit(f"fastrnn cannot be built: {message}")


def check_toolchain() -> str:
    """The C++ compiler; every way in which a build cannot even begin ends here, in one line."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]) is None:
        fail(f"no C++ compiler ('{compiler}' was not found). Install g++ 12 or later, or set CXX.")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        fail(f"{header} is missing. Install Python's headers (on Debian: apt install python3-dev).")
    return compiler


def torch_paths() -> tuple[Path, Path]:
    """torch's folders of headers and of libraries."""
    try:
        import torch
    except ImportError:
        fail(TORCH_MISSING)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        fail(f"torch {torch.__version__} is too old: 2.11 or later is needed.")
    folder = Path(torch.__file__).parent
    return folder / "include", folder / "lib"


def ninja_file(target: Path, objects: Path) -> str:
    """The whole build as text; ninja reruns only what changed, headers included."""
    compiler = check_toolchain()
    try:
        import pybind11
    except ImportError:
        fail("pybind11 is not installed in this environment: pip install pybind11 ninja")
    torch_include, torch_lib = torch_paths()
    includes = [torch_include, Path(pybind11.get_include()), Path(sysconfig.get_paths()["include"])]
    flags = f"{CXX_FLAGS} {TORCH_TARGET} " + " ".join(f"-isystem {path}" for path in includes)
    sources = SOURCES + (X86_SOURCES if platform.machine() in ("x86_64", "AMD64") else [])
    lines = [
        f"builddir = {objects}",
        f"cxx = {compiler}",
        f"flags = {flags} {os.environ.get('CXXFLAGS', '')}",
        "rule compile",
        "  command = $cxx $flags $isa -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $in",
        "rule link",
        f"  command = $cxx -shared -fopenmp -s $in -o $out -L{torch_lib} -ltorch_cpu {os.environ.get('LDFLAGS', '')}",
        "  description = link $out",
    ]
    outputs = []
    for source in sources:
        output = objects / Path(source).with_suffix(".o").name
        outputs.append(str(output))
        lines += [f"build {output}: compile {ROOT / source}", f"  isa = {ISA_FLAGS.get(source, '')}"]
    lines += [f"build {target}: link {' '.join(outputs)}", ""]
    return "\n".join(lines)


class NinjaBuild(build_ext):
    """setuptools' build_ext with ninja doing the compiling."""

    def run(self) -> None:
        # Not build_extensions(): setuptools would first ask whether it thinks the target is up to date.
        for extension in self.extensions:
            self.build_extension(extension)

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        # Not build_temp: for an editable install setuptools makes that a new folder, and everything compiles again.
        objects = ROOT / "build" / f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        objects.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        build = objects / "build.ninja"
        text = ninja_file(target, objects)
        if not build.exists() or build.read_text() != text:
            build.write_text(text)
        # The package's own ninja, which is there even where the environment's programs are not on the path.
        if subprocess.call([sys.executable, "-m", "ninja", "-f", str(build)], cwd=ROOT) != 0:
            fail("the compiler reported the errors above.")


setup(
    ext_modules=[Extension("fastrnn._C", sources=SOURCES + X86_SOURCES)],
    cmdclass={"build_ext": NinjaBuild},
)
