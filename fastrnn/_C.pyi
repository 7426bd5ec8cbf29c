from collections.abc import Callable
from typing import Any

isa: str
headers: str
cells: dict[str, dict[str, Any]]
plan_words: dict[str, list[str]]
compiler: str
cuda_built: bool
cuda_architectures: str  # that the kernels were compiled for; empty without CUDA

def force_usable_cores(cores: int) -> None: ...  # 0 leaves it to the machine; for tests
def force_input_steps(steps: int) -> None: ...  # negative leaves it to the kernels; for tests
def force_chunk_rows(rows: int) -> None: ...  # 0 leaves it to the kernels; for tests
def force_panel_gemms(panels: bool | None) -> None: ...  # None leaves it to the kernels; for tests and benchmarks
def add_cell(
    *,
    name: str,
    gates: int,
    saved_values: int,
    cell_states: int,
    per_unit_weights: int,
    multiplies_h: bool,
    reads_input: bool,
    recurrent_slots: list[int],
) -> None: ...
def set_loader(loader: Callable[[str, bool], str]) -> None: ...
def load_cell(*, name: str, path: str, is_double: bool) -> None: ...
def reserve_width(cell: str, half: bool) -> int: ...
def take_interruption() -> BaseException | None: ...
