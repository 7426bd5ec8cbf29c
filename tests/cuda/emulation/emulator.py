"""Builds programs that run kernels on the emulated GPU.

    .venv/bin/python tests/cuda/emulation/emulator.py plain|library|asan|race PROGRAM SOURCE...

Objects lie beside the program, in a folder named after the variant, where programs share the emulator's own; what is up
to date is not compiled again.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
COMPILER = os.environ.get("CXX", "g++")

EMULATOR = ("clusters", "cudart", "exchange", "fiber", "launch", "meetings", "memory", "scheduler", "warp_math")
FLAGS = "-std=c++20 -g1 -Wall -Wextra -Wno-unknown-pragmas"
INCLUDES = (ROOT / "csrc", ROOT / "tests", HERE)


class Variant(NamedTuple):
    sources: str  # flags
    emulator: str  # flags
    link: str  # flags
    besides: tuple[str, ...] = ()  # what the emulator has in this variant alone


# Without the checks of pointers that AddressSanitizer makes itself, and with its own as calls, a file of kernels takes
# 26 s to compile, not 50.
ASAN = (
    "-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=null,object-size,pointer-overflow"
    " -fno-sanitize-recover=all --param asan-instrumentation-with-call-threshold=0"
)
HIDDEN = "-O2 -fPIC -fvisibility=hidden"
# At -O1 a program's kernels compile in two thirds of the time, which is most of what these tests take; the library of
# ops has them at -O2, where the compiler may do its worst.
VARIANTS = {
    "plain": Variant("-O1 -fstrict-aliasing", "-O2", ""),
    "library": Variant(HIDDEN, HIDDEN, "-shared -Wl,-z,defs"),
    "asan": Variant(ASAN, "-O2 -DFASTRNN_EMULATION_ASAN", ASAN),
    # Linked without -fsanitize: the functions that it calls are race_calls.cpp's, not ThreadSanitizer's.
    "race": Variant(
        "-O1 -fsanitize=thread -fno-builtin-memcpy -fno-builtin-memmove -fno-builtin-memset",
        "-O2",
        "-Wl,--wrap=memcpy,--wrap=memmove,--wrap=memset",
        ("race_calls", "race_detector", "race_order", "race_report", "race_shadow"),
    ),
}
# What a program must find in its environment.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def cuda_include():
    """The folder of CUDA's headers, or None."""
    nvcc = shutil.which("nvcc")
    homes = (os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parent.parent, "/usr/local/cuda")
    includes = (Path(home) / "include" for home in homes if home)
    return next((include for include in includes if (include / "cuda_fp16.h").exists()), None)


class Program(NamedTuple):
    name: str
    variant: str
    sources: Sequence[Path]  # those of kernels, compiled as the variant says
    host: Sequence[Path] = ()  # those without kernels, compiled as the emulator is
    flags: str = ""  # further ones
    libraries: str = ""

    def objects(self):
        """Those to link, each with its source and flags.

        The sources first: of functions that both have, such as a vector's, the linker takes the first, which is to be
        the instrumented one.
        """
        variant = VARIANTS[self.variant]
        emulator = [HERE / f"{stem}.cpp" for stem in EMULATOR + variant.besides]
        objects = {}
        for sources, flags in ((self.sources, variant.sources), ((*self.host, *emulator), variant.emulator)):
            for source in map(Path.resolve, sources):
                objects[f"{self.variant}/{'_'.join(source.parts[1:])}.o"] = (source, f"{flags} {self.flags}")
        return objects


def ninja_file(programs):
    """Every program as one build. Those of one variant share the objects of the same sources."""
    includes = " ".join(f"-I{folder}" for folder in INCLUDES)
    lines = [
        "rule compile",
        f"  command = {COMPILER} {FLAGS} {includes} -isystem {cuda_include()} $flags -MMD -MF $out.d"
        " -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {COMPILER} $flags $in -o $out $libraries",
    ]
    compiled = {}
    for program in programs:
        compiled |= program.objects()
        lines += [
            f"build {program.name}: link {' '.join(program.objects())}",
            f"  flags = {VARIANTS[program.variant].link}",
            f"  libraries = {program.libraries}",
        ]
    for target, (source, flags) in compiled.items():
        lines += [f"build {target}: compile {source}", f"  flags = {flags}"]
    return "\n".join([*lines, ""])


def build_all(folder, programs, file="build.ninja"):
    """Makes the programs in a folder. Processes that build in the same folder take turns."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text, steps = ninja_file(programs), folder / file
        if not steps.exists() or steps.read_text() != text:
            steps.write_text(text)
        command = [sys.executable, "-m", "ninja", "-C", str(folder), "-f", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-8000:] + done.stderr[-2000:])


def build(variant, program, sources, flags="", libraries=""):
    """Makes one program, a path, and returns it."""
    program = Path(program).resolve()
    sources = tuple(map(Path, sources))
    one = Program(program.name, variant, sources, flags=flags, libraries=libraries)
    build_all(program.parent, [one], f"{program.name}.{variant}.ninja")
    return program


if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], sys.argv[3:])
