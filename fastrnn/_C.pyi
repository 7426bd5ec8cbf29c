from typing import Any

isa: str
compiler: str

def reserve_width(cell: str) -> int: ...
def take_interruption() -> BaseException | None: ...
def plan(
    *,
    cell: str,
    double_precision: bool,
    steps: int,
    batch: int,
    rows: int,
    hidden_size: int,
    recurrent_size: int,
    projected: bool,
    backward: bool,
) -> dict[str, Any]: ...
