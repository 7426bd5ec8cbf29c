"""Builds the extension fastrnn._C with ninja: one object a source, each with its own flags.

CUDA kernels take minutes for each chip, so they are built only for the GPUs that torch finds, or that
TORCH_CUDA_ARCH_LIST names, as for torch's own extensions. FASTRNN_CUDA=1 insists on them, where there is no GPU for all
of ARCHITECTURES; FASTRNN_CUDA=0 leaves them out.

Everything about the package that is not about compiling stands in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

SOURCES = [
    "csrc/python.cpp",
    "csrc/ops/register.cpp",
    "csrc/ops/layer_cpu.cpp",
    "csrc/ops/shape.cpp",
    "csrc/cpu/team/cores.cpp",
    "csrc/cpu/isa/select.cpp",
    "csrc/cpu/plan.cpp",
    "csrc/cpu/team/team.cpp",
    "csrc/cpu/isa/kernels_baseline.cpp",
    "csrc/cpu/isa/kernels_baseline_int8.cpp",
]
X86_SOURCES = [f"csrc/cpu/isa/kernels_{isa}{stored}.cpp" for isa in ("avx2", "avx512") for stored in ("", "_int8")]
IS_X86 = platform.machine() in ("x86_64", "AMD64")
CUDA_SOURCES = [
    "csrc/ops/register_cuda.cpp",
    "csrc/ops/layer_cuda.cpp",
    "csrc/ops/cuda_verdicts.cpp",
    "csrc/ops/torch_cuda.cpp",
    "csrc/cuda/run.cpp",
    "csrc/cuda/plan.cpp",
    "csrc/cuda/common/gemm.cpp",
    "csrc/cuda/common/upload.cu",
    "csrc/cuda/common/previous_h.cu",
    "csrc/cuda/common/wait_limit.cu",
    "csrc/cuda/common/comparison.cu",
    "csrc/cuda/cluster/cluster_f32_exact.cu",
    "csrc/cuda/cluster/cluster_f32.cu",
    "csrc/cuda/cluster/cluster_f16.cu",
    "csrc/cuda/cluster/cluster_bf16.cu",
    "csrc/cuda/persistent/persistent_f32_exact.cu",
    "csrc/cuda/persistent/persistent_f32.cu",
    "csrc/cuda/persistent/persistent_f16.cu",
    "csrc/cuda/persistent/persistent_bf16.cu",
    "csrc/cuda/streamed/streamed_f64.cu",
    "csrc/cuda/streamed/streamed_f32.cu",
    "csrc/cuda/streamed/streamed_f16.cu",
    "csrc/cuda/streamed/streamed_bf16.cu",
]
# Of the kernels of an instruction set: as cells that users write are compiled, too.
_COMPILER = runpy.run_path(str(ROOT / "fastrnn" / "_cell" / "compiler.py"))
CXX_FLAGS, ALIGNED_LOOPS = _COMPILER["CXX_FLAGS"], _COMPILER["ALIGNED_LOOPS"]
ISA_FLAGS = {
    f"csrc/cpu/isa/kernels_{isa}{stored}.cpp": f"{flags} {more.get(isa, '')}".strip()
    for isa, flags in _COMPILER["ISA_FLAGS"].items()
    for stored, more in (("", {}), ("_int8", _COMPILER["INT8_FLAGS"]))
    if flags
}
NVCC_FLAGS = "-std=c++20 -O3 -lineinfo -Xfatbin -compress-all -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra"
# Machine code for a chip also runs on the later ones of its major version; the last one's PTX serves those to come.
ARCHITECTURES = ["8.0", "8.6", "9.0", "10.0", "12.0"]
OLDEST_GPU = (8, 0)  # that the kernels run on
# How long it takes to compile for one, on two cores.
ISA_SECONDS, CHIP_SECONDS = 40, 70
# One build serves torch 2.11 and later.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"

# The first that reads a license in pyproject.toml as PEP 639 has it.
OLDEST_SETUPTOOLS = 77

TORCH_MISSING = (
    "torch is not installed in this environment. If you have it, pip is building in an empty environment of its own: "
    "pip install --no-build-isolation . builds in yours. Else first: pip install torch ninja pybind11 "
    f"'setuptools>={OLDEST_SETUPTOOLS}'"
)


def say(message: str) -> None:
    print(f"fastrnn: {message}", file=sys.stderr)


def fail(message: str) -> NoReturn:
    sys.exit(f"fastrnn cannot be built: {message}")


def check_setuptools() -> None:
    """To be called before setup(), where an older one would find fault with pyproject.toml."""
    if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
        fail(
            f"setuptools {setuptools.__version__} is too old: {OLDEST_SETUPTOOLS} or later is needed. "
            f"pip install 'setuptools>={OLDEST_SETUPTOOLS}'"
        )


def check_toolchain() -> str:
    """The C++ compiler; every way in which a build cannot even begin ends here, in one line."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]) is None:
        fail(f"no C++ compiler ('{compiler}' was not found). Install g++ 12 or later, or set CXX.")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        fail(f"{header} is missing. Install Python's headers (on Debian: apt install python3-dev).")
    return compiler


@dataclass(frozen=True)
class Torch:
    include: Path
    lib: Path
    cuda: str | None  # the version of CUDA that it was built with
    gpus: list[str]  # compute capabilities of those that are there and that there are kernels for


def find_torch() -> Torch:
    try:
        import torch
    except ImportError:
        fail(TORCH_MISSING)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        fail(f"torch {torch.__version__} is too old: 2.11 or later is needed.")
    folder = Path(torch.__file__).parent
    return Torch(folder / "include", folder / "lib", torch.version.cuda, find_gpus())


def find_gpus() -> list[str]:
    import torch

    if not (torch.version.cuda and torch.cuda.is_available()):
        return []
    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return [f"{major}.{minor}" for major, minor in sorted(capabilities) if (major, minor) >= OLDEST_GPU]


@dataclass(frozen=True)
class Cuda:
    nvcc: str
    includes: str
    libraries: str
    architectures: str


def find_cuda(torch: Torch) -> Cuda | None:
    """What to build the CUDA kernels with; None, and a word why, where they are left out."""
    wish = os.environ.get("FASTRNN_CUDA", "")
    if wish not in ("", "0", "1"):
        fail(f"FASTRNN_CUDA={wish}: 1 insists on CUDA, 0 leaves it out, and without it the GPUs that are there decide.")
    nvcc = find_nvcc()
    trouble = no_need_of_cuda(wish, torch) or nvcc_trouble(nvcc, torch)
    if nvcc and not trouble:
        settings = said_by(nvcc, "--dryrun", "-c", "none.cu")  # where its own headers and libraries are
        includes = " ".join(re.findall(r"INCLUDES=(.*)", settings))
        libraries = " ".join(re.findall(r"LIBRARIES=(.*)", settings))
        return Cuda(nvcc, includes, libraries, architecture_flags(nvcc, torch.gpus))
    if wish == "1":
        fail(f"{trouble} (FASTRNN_CUDA=1)")
    say(f"no CUDA kernels: {trouble}")
    return None


def no_need_of_cuda(wish: str, torch: Torch) -> str:
    """Why CUDA kernels are nobody's wish, if they are nobody's."""
    if wish == "1":
        return ""
    if wish == "0":
        return "FASTRNN_CUDA=0 leaves them out."
    if not torch.cuda:
        return "this torch has no CUDA."
    if not (torch.gpus or os.environ.get("TORCH_CUDA_ARCH_LIST")):
        oldest = ".".join(map(str, OLDEST_GPU))
        return f"torch finds no GPU of compute capability {oldest} or later. FASTRNN_CUDA=1 builds them all the same."
    return ""


def find_nvcc() -> str | None:
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [*(f"{home}/bin/nvcc" for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def said_by(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout


def nvcc_trouble(nvcc: str | None, torch: Torch) -> str:
    """Why this nvcc will not do, if it won't."""
    if nvcc is None:
        return "nvcc was not found in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda. Install CUDA's toolkit."
    release = re.search(r"release (\d+)\.(\d+)", said_by(nvcc, "--version"))
    if release is None:
        return f"{nvcc} does not run."
    # Structs of CUDA and cuBLAS change from one major version to the next; what mixes them crashes, and late.
    if torch.cuda and torch.cuda.split(".")[0] != release[1]:
        return f"torch has CUDA {torch.cuda}, but {nvcc} is of CUDA {release[1]}.{release[2]}. Set CUDA_HOME."
    return ""


def architecture_flags(nvcc: str, gpus: list[str]) -> str:
    """TORCH_CUDA_ARCH_LIST (such as "8.0;9.0a 12.0+PTX") for nvcc; by default the GPUs that are there."""
    wanted = re.findall(r"[^;\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "")) or default_architectures(nvcc, gpus)
    flags = []
    for name in wanted:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name)
        if match is None:
            fail(f"TORCH_CUDA_ARCH_LIST: '{name}' is not understood. It is a list such as \"8.0;9.0a;12.0+PTX\".")
        number = match[1] + match[2]
        flags.append(f"-gencode arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode arch=compute_{number},code=compute_{number}")
    return " ".join(dict.fromkeys(flags))


def default_architectures(nvcc: str, gpus: list[str]) -> list[str]:
    """Of the GPUs that are there; without any, or with one too new for this nvcc, what it knows of ARCHITECTURES."""
    known = {f"{major}.{minor}" for major, minor in re.findall(r"sm_(\d+)(\d)\b", said_by(nvcc, "--list-gpu-code"))}
    if gpus and known.issuperset(gpus):
        return gpus
    wanted = [name for name in ARCHITECTURES if name in known]
    return [*wanted[:-1], f"{wanted[-1]}+PTX"]


def flags_of(source: str, cuda: Cuda | None) -> str:
    """What one source's object needs beside what all have."""
    flags = []
    if source == "csrc/python.cpp":
        flags.append(f"'-DFASTRNN_HEADERS=\"{_COMPILER['headers_hash'](ROOT / 'csrc')}\"'")
    if cuda and source in ("csrc/python.cpp", *CUDA_SOURCES):
        named = " ".join(re.findall(r"code=(\w+)", cuda.architectures))
        flags.append(f"-DFASTRNN_WITH_CUDA '-DFASTRNN_CUDA_ARCHITECTURES=\"{named}\"' {cuda.includes}")
    if source in ISA_FLAGS:
        flags.append(f"{ISA_FLAGS[source]} {ALIGNED_LOOPS}")
    return " ".join(flags)


def link_flags(torch: Torch, cuda: Cuda | None) -> str:
    flags = f"-L{torch.lib} -ltorch_cpu"
    if cuda:
        # A runtime of our own, as cuBLAS and cuDNN have: all runtimes of a process share the driver's contexts and
        # streams. It needs no library of the same minor version beside torch's, and imports without a driver.
        flags += f" -Wl,--exclude-libs,ALL {cuda.libraries} -lcudart_static -ldl -lrt -lpthread"
    if cuda and torch.cuda:
        # Only weak symbols refer to it (ops/torch_cuda.cpp), and for those alone the linker would leave it out.
        flags += " -Wl,--no-as-needed -ltorch_cuda"
    return flags


def announce(cuda: Cuda | None) -> None:
    """What is about to be compiled, and that it takes its time. pip shows it where it is called with -v."""
    isas = ["SSE2", "AVX2", "AVX-512"] if IS_X86 else ["NEON"]
    chips = re.findall(r"code=(sm_\w+)", cuda.architectures) if cuda else []
    minutes = round((ISA_SECONDS * len(isas) + CHIP_SECONDS * len(chips)) / 60)
    targets = ", ".join(isas + chips)
    say(f"building for {targets}: where nothing is compiled yet, about {minutes} min on two cores.")


def ninja_file(target: Path, compiler: str, torch: Torch, cuda: Cuda | None) -> str:
    """The whole build as text, to run in the folder of the objects: that stands in none of its commands, so that a copy
    of the folder is as far as the original. ninja reruns only what changed, headers included."""
    try:
        import pybind11
    except ImportError:
        fail("pybind11 is not installed in this environment: pip install pybind11 ninja")
    # pybind11 first: some versions of torch bring one of their own, for builds that are not on the stable ABI.
    includes = [Path(pybind11.get_include()), torch.include, Path(sysconfig.get_paths()["include"])]
    flags = f"{CXX_FLAGS} {TORCH_TARGET} " + " ".join(f"-isystem {path}" for path in includes)
    lines = [
        f"cxx = {compiler}",
        f"flags = {flags} {os.environ.get('CXXFLAGS', '')}",
        "rule compile",
        "  command = $cxx $flags $extra -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $in",
        "rule link",
        f"  command = $cxx -shared -fopenmp -s $in -o $out {link_flags(torch, cuda)} {os.environ.get('LDFLAGS', '')}",
        "  description = link $out",
    ]
    if cuda:
        host = next(word for word in reversed(compiler.split()) if not word.startswith("-"))  # of "ccache g++ -m64"
        lines += [
            f"nvcc = {cuda.nvcc} -ccbin {host}",
            "rule compile_cuda",
            f"  command = $nvcc {NVCC_FLAGS} {cuda.architectures} -MD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $in",
        ]
    outputs = []
    for source in SOURCES + (X86_SOURCES if IS_X86 else []) + (CUDA_SOURCES if cuda else []):
        output = Path(source).with_suffix(".o")
        outputs.append(str(output))
        rule = "compile_cuda" if source.endswith(".cu") else "compile"
        lines += [f"build {output}: {rule} {ROOT / source}", f"  extra = {flags_of(source, cuda)}"]
    lines += [f"build {target}: link {' '.join(outputs)}", ""]
    return "\n".join(lines)


class NinjaBuild(build_ext):
    """setuptools' build_ext with ninja doing the compiling."""

    def finalize_options(self) -> None:
        # For an editable install setuptools' own folder of objects is a new one, and everything would compile again.
        default = ROOT / "build" / f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        self.objects = Path(self.build_temp or default).resolve()  # build_temp: --build-temp on the command line
        super().finalize_options()

    def run(self) -> None:
        # Not build_extensions(): setuptools would first ask whether it thinks the target is up to date.
        for extension in self.extensions:
            self.build_extension(extension)
        if os.environ.get("FASTRNN_PREBUILD_CELLS") == "1" and not self.inplace:
            self.prebuild_cells()

    def prebuild_cells(self) -> None:
        """Compile what of fastrnn.papers would else be compiled at its first use: minutes, for wheels."""
        place = Path(self.build_lib).resolve()
        command = [sys.executable, "-m", "fastrnn._cell.prebuild", str(place / "fastrnn" / "_cells")]
        if subprocess.call(command, cwd=place, env={**os.environ, "PYTHONPATH": str(place)}) != 0:
            fail("the cells of fastrnn.papers did not compile.")

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        self.objects.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        build = self.objects / "build.ninja"
        compiler = check_toolchain()
        torch = find_torch()
        cuda = find_cuda(torch)
        text = ninja_file(target, compiler, torch, cuda)
        announce(cuda)
        if not build.exists() or build.read_text() != text:
            build.write_text(text)
        # The package's own ninja, which is there even where the environment's programs are not on the path.
        if subprocess.call([sys.executable, "-m", "ninja", "-f", str(build)], cwd=self.objects) != 0:
            fail("the compiler reported the errors above.")


class BuildWithHeaders(build_py):
    """setuptools' build_py, and beside the package's modules the headers that cells of one's own are compiled with."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # they are found where they are
            return
        for path in _COMPILER["cell_headers"](ROOT / "csrc"):
            target = Path(self.build_lib, "fastrnn", "_csrc", path.relative_to(ROOT / "csrc"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


if __name__ == "__main__":
    check_setuptools()
    setup(
        ext_modules=[Extension("fastrnn._C", sources=SOURCES + X86_SOURCES + CUDA_SOURCES)],
        cmdclass={"build_ext": NinjaBuild, "build_py": BuildWithHeaders},
    )
