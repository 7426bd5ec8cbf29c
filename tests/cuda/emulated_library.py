"""The CUDA ops on the emulated GPU: builds them as a library for torch, torch.ops.fastrnn_emulated, for tensors of the
CPU, and puts them in the places of fastrnn's own."""

import ctypes
from pathlib import Path

import torch
from emulation.emulator import ROOT, build

from fastrnn._call import precision, ragged
from fastrnn._ops import schema

# Of fastrnn._ops.schema: what every plain call takes, and what explain asks.
OPS = ("plain_infer", "plain_forward", "plain_backward", "plan")

CSRC, HERE = ROOT / "csrc", ROOT / "tests" / "cuda"
SOURCES = (
    *(CSRC / "ops" / f"{name}.cpp" for name in ("layer_cuda", "cuda_verdicts", "shape")),
    *sorted((CSRC / "cuda").glob("*/*.cu")),
    CSRC / "cuda" / "plan.cpp",
    *(HERE / f"{name}.cpp" for name in ("emulated_gemm", "emulated_ops", "spoilt_run")),
    ROOT / "tests" / "gpu" / "first" / "fit.cpp",
)


def build_library() -> Path:
    torch_folder = Path(torch.__file__).parent
    flags = f"-isystem {torch_folder / 'include'} -DTORCH_TARGET_VERSION=0x020b000000000000"
    program = ROOT / "build" / "cuda_emulation" / "libfastrnn_emulated.so"
    return build("library", program, SOURCES, flags, f"-L{torch_folder / 'lib'} -ltorch_cpu -lc10")


def load() -> ctypes.CDLL:
    path = build_library()
    torch.ops.load_library(path)
    return ctypes.CDLL(str(path))


def replacements():
    """What of fastrnn's modules gives way, once the library is loaded: (module, name, value)."""
    emulated = {name: getattr(torch.ops.fastrnn_emulated, f"_{name}").default for name in OPS}
    fakes = {op: schema.FAKES[getattr(schema, name)] for name, op in emulated.items() if name != "plan"}
    yield from ((schema, name, op) for name, op in emulated.items())
    yield schema, "FAKES", schema.FAKES | fakes
    yield precision, "kernels_take_half", lambda input: True
    yield ragged, "packs_padded", lambda input: False


def install() -> ctypes.CDLL:
    """For all of this process; products of float32 then round to TF32 where torch's switch lets them."""
    library = load()
    for module, name, value in replacements():
        setattr(module, name, value)
    precision.allows_tf32 = lambda input: input.dtype == torch.float32 and precision._rnn_switch_is_on()
    return library


if __name__ == "__main__":
    print(build_library())
