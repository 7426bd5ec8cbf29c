from typing import Any

isa: str
cells: dict[str, dict[str, Any]]
compiler: str
cuda_built: bool
cuda_architectures: str  # that the kernels were compiled for; empty without CUDA

def force_usable_cores(cores: int) -> None: ...  # 0 leaves it to the machine; for tests
def force_input_steps(steps: int) -> None: ...  # negative leaves it to the kernels; for tests
def force_stretch_rows(rows: int) -> None: ...  # 0 leaves it to the kernels; for tests
def reserve_width(cell: str, half: bool) -> int: ...
def take_interruption() -> BaseException | None: ...
def plan(
    *,
    cell: str,
    weights: str,
    layers: int,
    directions: int,
    steps: int,
    batch: int,
    rows: int,
    input_size: int,
    hidden_size: int,
    recurrent_size: int,
    projected: bool,
    backward: bool,
    frozen: bool,
) -> dict[str, Any]: ...
def plan_cuda(  # only where cuda_built
    *,
    cell: str,
    dtype: str,
    layers: int,
    directions: int,
    dense: bool,
    steps: int,
    batch: int,
    hidden_size: int,
    recurrent_size: int,
    projected: bool,
    backward: bool,
    allow_tf32: bool,
    device: int,
    extended: bool = False,
) -> dict[str, Any]: ...
