"""The kernels without torch or Python (tests/kernels): under sanitizers on every instruction set, and their exp, tanh.

AddressSanitizer and UndefinedBehaviorSanitizer see what a kernel does to memory that is not its own, ThreadSanitizer
what two members of a team do to the same memory; the numbers are compared with a reference in C++. Everything is built
in build/kernel_tests by ninja, which compiles again only what changed.
"""

import ast
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from session_seed import SESSION_SEED
from test_explain import ISAS, best_isa

ROOT = Path(__file__).parent.parent
CSRC, SOURCES, BUILD = ROOT / "csrc", ROOT / "tests" / "kernels", ROOT / "build" / "kernel_tests"
HERE = ISAS[: ISAS.index(best_isa()) + 1]
COMPILER = os.environ.get("CXX", "g++")

KERNELS = {"sse2": "baseline", "avx2": "avx2", "avx512": "avx512"}
KERNEL_TEST = ("reference", "cases", "test_reference", "test_kernels")
SANITIZERS = {
    "asan": "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all",
    "tsan": "-O1 -g -fsanitize=thread",
}


def setting(name):
    """A constant of setup.py, which cannot be imported: it would build the package."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == name:
            return ast.literal_eval(statement.value)
    raise LookupError(f"setup.py has no constant {name}")


def ninja_file():
    """Every program here as one build."""
    isa_flags = setting("ISA_FLAGS")
    lines = [
        f"flags = {setting('CXX_FLAGS')} -I{CSRC}",
        "rule compile",
        f"  command = {COMPILER} $flags $extra -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {COMPILER} $extra $in -o $out",
    ]

    def program(name, objects, extra):
        """objects: those to link, each with its source and flags."""
        for target, (source, flags) in objects.items():
            lines.extend([f"build {target}: compile {source}", f"  extra = {flags}"])
        lines.extend([f"build {name}: link {' '.join(objects)}", f"  extra = {extra}"])

    for name, sanitizer in SANITIZERS.items():
        sources = dict.fromkeys((CSRC / "cpu" / "dispatch.cpp", CSRC / "cpu" / "team.cpp"), sanitizer)
        for isa in ISAS:
            source = f"csrc/cpu/kernels_{KERNELS[isa]}.cpp"
            sources[ROOT / source] = f"{isa_flags.get(source, '')} {sanitizer}"
        # ThreadSanitizer does not see how GCC's OpenMP library synchronises, so its program brings the threads itself.
        extra = ("openmp_on_std_thread",) if name == "tsan" else ()
        sources |= {SOURCES / f"{source}.cpp": sanitizer for source in (*KERNEL_TEST, *extra)}
        objects = {f"{name}/{source.stem}.o": (source, flags) for source, flags in sources.items()}
        program(f"{name}/test_kernels", objects, sanitizer + (" -fopenmp" if name == "asan" else ""))

    for isa in ISAS:
        flags = isa_flags.get(f"csrc/cpu/kernels_{KERNELS[isa]}.cpp", "")
        source = SOURCES / "test_vector_math.cpp"
        program(f"vector_math/{isa}", {f"vector_math/{isa}.o": (source, flags)}, "")
    return "\n".join([*lines, ""])


def build(program):
    """The program's path, after compiling what is not up to date. Sessions that run side by side take turns."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text, path = ninja_file(), BUILD / "build.ninja"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        command = [sys.executable, "-m", "ninja", "-C", str(BUILD), program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return BUILD / program


def run(program, *arguments, **environment):
    done = subprocess.run(
        [program, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[:6000] + output[6000:][-1000:]  # a sanitizer's report, and the case at its end
    return output


def run_kernels(program, isa, *arguments):
    output = run(
        program,
        "--seed",
        SESSION_SEED,
        *arguments,
        FASTRNN_ISA=isa,
        UBSAN_OPTIONS="print_stacktrace=1",
        TSAN_OPTIONS="halt_on_error=1",
        OMP_WAIT_POLICY="passive",  # three threads on two cores: those that wait should leave the core to the others
    )
    assert f"{isa}: " in output


@pytest.mark.long
@pytest.mark.parametrize("isa", HERE)
def test_kernels_under_address_and_undefined(isa):
    """Every case of tests/kernels/cases.cpp, each on one thread and on teams that split the batch and the units."""
    run_kernels(build("asan/test_kernels"), isa)


@pytest.mark.long
@pytest.mark.parametrize("isa", HERE)
def test_teams_under_thread(isa):
    if "clang" in subprocess.run([*COMPILER.split(), "--version"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("tests/kernels/openmp_on_std_thread.cpp stands in for GCC's OpenMP library alone")
    run_kernels(build("tsan/test_kernels"), isa, "--teams", "--every", 10)


@pytest.mark.parametrize("isa", HERE)
def test_vector_math(isa):
    """exp, tanh and sigmoid over every exponent, and of the special values; built as the extension is."""
    run(build(f"vector_math/{isa}"), SESSION_SEED)
