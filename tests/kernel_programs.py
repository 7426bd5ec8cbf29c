"""Builds and runs the programs of tests/kernels: the CPU kernels without torch or Python.

ninja compiles again only what changed, for this machine or for another one whose compiler is named.
"""

import fcntl
import os
import runpy
import subprocess
import sys
from pathlib import Path

from session_seed import SESSION_SEED

ROOT = Path(__file__).parent.parent
CSRC, SOURCES = ROOT / "csrc", ROOT / "tests" / "kernels"
COMPILER = runpy.run_path(str(ROOT / "fastrnn" / "_cell" / "compiler.py"))


def setting(name):
    """How the extension is compiled."""
    return COMPILER[name]


def kernels_source(name, stored=""):
    """The kernels of one instruction set: baseline, avx2, avx512; or those for weights `stored` in a type of theirs."""
    return CSRC / "cpu" / "isa" / f"kernels_{name}{stored}.cpp"


def isa_flags(source):
    """What the extension compiles a source with beside what all have."""
    isa = source.stem.removeprefix("kernels_")
    flags, more = setting("ISA_FLAGS").get(isa.removesuffix("_int8"), ""), setting("INT8_FLAGS")
    return f"{flags} {more.get(isa.removesuffix('_int8'), '')}" if isa.endswith("_int8") else flags


def kernel_test(*kernels):
    """The sources of test_kernels, with the kernels of these instruction sets."""
    return [
        *(CSRC / "cpu" / f"{name}.cpp" for name in ("isa/select", "plan", "team/cores", "team/team")),
        *(kernels_source(name, stored) for name in kernels for stored in ("", "_int8")),
        *(
            SOURCES / f"{name}.cpp"
            for name in (
                "reference",
                "cases",
                "test_reference",
                "test_directions",
                "test_interruption",
                "test_wavefront",
                "test_gemm",
                "test_kernels",
            )
        ),
    ]


class Programs:
    """Programs of one compiler, built in one folder."""

    def __init__(self, folder, compiler):
        self._folder = folder
        self._lines = [
            f"flags = {setting('CXX_FLAGS')} -I{CSRC}",
            "rule compile",
            f"  command = {compiler} $flags $extra -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = {compiler} $extra $in -o $out",
        ]

    def add(self, name, sources, flags="", link=""):
        """flags: for compiling and linking, beside each source's own. Objects go to the folder <name>.objects."""
        objects = []
        for source in sources:
            objects.append(f"{name}.objects/{source.stem}.o")
            self._lines += [f"build {objects[-1]}: compile {source}", f"  extra = {isa_flags(source)} {flags}"]
        self._lines += [f"build {name}: link {' '.join(objects)}", f"  extra = {flags} {link}"]

    def build(self, target):
        """The path of a program or an object, after compiling what is not up to date.

        Sessions that run side by side take turns.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text, path = "\n".join([*self._lines, ""]), self._folder / "build.ninja"
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
            command = [sys.executable, "-m", "ninja", "-C", str(self._folder), target]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return self._folder / target


def run(*command, **environment):
    """What the command prints; it must succeed."""
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[:6000] + output[6000:][-1000:]  # a sanitizer's report, and the case at its end
    return output


def run_kernels(isa, *command, **environment):
    """test_kernels, as the command says, with the kernels of one instruction set."""
    output = run(
        *command,
        "--seed",
        SESSION_SEED,
        FASTRNN_ISA=isa,
        OMP_WAIT_POLICY="passive",  # three threads on two cores: those that wait should leave the core to the others
        **environment,
    )
    assert f"{isa}: " in output
