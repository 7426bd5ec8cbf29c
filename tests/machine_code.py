"""What cuobjdump reads from a library with CUDA kernels: their registers, memory and instructions."""

import os
import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path


@dataclass
class Kernel:
    """One kernel's machine code for one architecture."""

    name: str  # such as cell_forward<Lstm, float>
    architecture: str  # such as sm_90
    registers: int
    stack: int
    local: int
    shared: int  # static, with what CUDA takes for itself
    # On tensor cores, loads and stores of every kind, barriers, IEEE divisions: as they stand, one after the other.
    code: list[str] = field(default_factory=list, repr=False)

    @property
    def instructions(self):
        return Counter(self.code)

    @property
    def loads_ahead(self):
        """The most loads that stand together before a product, with no barrier or other product in between."""
        most = loads = 0
        for instruction in self.code:
            if "MMA" in instruction:
                most = max(most, loads)
            if "MMA" in instruction or instruction.startswith("BAR"):
                loads = 0
            loads += instruction.startswith(("LDG", "LDS", "LD."))
        return most


def nvidia_tool(name):
    """cuobjdump or nvdisasm: of its package on PyPI, or of the toolkit."""
    try:
        files = metadata.files(f"nvidia-cuda-{name}") or []
    except metadata.PackageNotFoundError:
        files = []
    packaged = [str(file.locate()) for file in files if file.name == name]
    return next(filter(None, map(shutil.which, [*packaged, name, f"/usr/local/cuda/bin/{name}"])), None)


def dump(library, *options):
    beside = [str(Path(nvidia_tool("nvdisasm")).parent), os.environ["PATH"]]  # where cuobjdump looks for nvdisasm
    return subprocess.run(
        [nvidia_tool("cuobjdump"), *options, str(library)],
        env=os.environ | {"PATH": os.pathsep.join(beside)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


USAGE = r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)"
INSTRUCTION = (
    r"\*/\s+(?:@!?U?P\w+ )?(?P<instruction>(?:[A-Z]*MMA|LDL?|LDG|LDS|STL?|BAR|FCHK|MEMBAR|UCGABAR_ARV)\b[\w.]*)"
)


def facts(pattern, text):
    """Every match of a pattern in what cuobjdump prints, with the architecture and the function that it is about."""
    architecture = function = None
    headline = r"^arch = (?P<architecture>\w+)$|^\s*Function\s*:?\s*(?P<function>\w+)"
    for match in re.finditer(f"{headline}|{pattern}", text, re.MULTILINE):
        if match["architecture"]:
            architecture = match["architecture"]
        elif match["function"]:
            function = match["function"]
        else:
            yield (architecture, function), match


def readable(functions):
    """For what the linker calls each function: its name in the source, with template arguments."""
    demangled = subprocess.run(["c++filt"], input="\n".join(functions), capture_output=True, text=True, check=True)
    lines = demangled.stdout.replace("(anonymous namespace)::", "").splitlines()
    # Of an enumerator the type is left out: what stands in brackets then are the parameters.
    values = [re.sub(r"\([\w:]+\)(?=\d)", "", line) for line in lines]
    names = [re.sub(r"^void |fastrnn::|cuda::", "", line.partition("(")[0]) for line in values]
    return dict(zip(functions, names, strict=True))


def kernels_in(library):
    """Every kernel of a library or object, once for each architecture that it has machine code for."""
    usage = dict(facts(USAGE, dump(library, "--dump-resource-usage")))
    names = readable([function for _, function in usage])
    kernels = {}
    for (architecture, function), match in usage.items():
        numbers = {name: int(match[name]) for name in ("registers", "stack", "shared", "local")}
        kernels[architecture, function] = Kernel(names[function], architecture, **numbers)

    def count(architecture):
        for key, match in facts(INSTRUCTION, dump(library, "--gpu-architecture", architecture, "--dump-sass")):
            kernels[key].code.append(match["instruction"])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(count, {architecture for architecture, _ in kernels}))
    return sorted(kernels.values(), key=lambda kernel: (kernel.name, int(kernel.architecture.removeprefix("sm_"))))
