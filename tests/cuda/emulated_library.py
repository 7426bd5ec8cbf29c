"""Builds the CUDA ops on the emulated GPU as a library for torch: torch.ops.fastrnn_emulated, for CPU tensors."""

from pathlib import Path

import torch
from emulation.emulator import ROOT, build

CSRC, HERE = ROOT / "csrc", ROOT / "tests" / "cuda"
SOURCES = (
    *(CSRC / "ops" / f"{name}.cpp" for name in ("layer_cuda", "shape")),
    *sorted((CSRC / "cuda").glob("*/*.cu")),
    CSRC / "cuda" / "run.cpp",
    CSRC / "cuda" / "plan.cpp",
    *(HERE / f"{name}.cpp" for name in ("emulated_gemm", "emulated_ops")),
)


def build_library() -> Path:
    torch_folder = Path(torch.__file__).parent
    flags = f"-isystem {torch_folder / 'include'} -DTORCH_TARGET_VERSION=0x020b000000000000"
    program = ROOT / "build" / "cuda_emulation" / "libfastrnn_emulated.so"
    return build("library", program, SOURCES, flags, f"-L{torch_folder / 'lib'} -ltorch_cpu -lc10")


if __name__ == "__main__":
    print(build_library())
