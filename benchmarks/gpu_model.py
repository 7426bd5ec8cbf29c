"""What a layer should take on a GPU: the operations, bytes and exchanges of each kernel's step against the ceilings.

    .venv/bin/python benchmarks/gpu_model.py  # a table of predictions, of an H200

Nothing here is measured. The ceilings are what NVIDIA publishes or, where it says nothing, estimates; benchmarks/gpu.py
prints the same predictions beside what it measures, and that is where a wrong ceiling shows.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from workloads import GATES, Case

ROWS, THREADS, WARPS = 16, 256, 8  # of a tile, and of a block
SAVED_VALUES = {"RNN": 1, "GRU": 4, "LSTM": 4}
BYTES = {"f32": 4, "tf32": 4, "f16": 2, "bf16": 2}
REGISTER_BYTES = 48 * 4 * THREADS  # of weights, in a block
CLUSTER_UNITS, LARGEST_CLUSTER = (16, 32), 16
SPLIT_BLOCKS, LEAST_BYTES_TO_SPLIT = 4, 8 << 20
CALLS_AT_ONCE, SUB_CHUNK_STEPS = 4, 64  # of layers that run as a wavefront
PIECE = {"f32": 4, "tf32": 8, "f16": 16, "bf16": 16}  # columns that a warp multiplies at once
LOADS_AHEAD = {"f32": 2, "tf32": 8, "f16": 8, "bf16": 8}  # pieces whose loads are under way together
# Of a thread for a row, forward and backward, counted in the machine code for sm_90; then those before a product.
CELL_INSTRUCTIONS = {"RNN": (70, 80), "GRU": (145, 115), "LSTM": (200, 155)}
PRODUCT_INSTRUCTIONS = 160


@dataclass(frozen=True)
class Rates:
    """By what factors are rounded to."""

    f32: float
    tf32: float
    half: float

    def of(self, precision: str) -> float:
        return {"f32": self.f32, "tf32": self.tf32}.get(precision, self.half)


@dataclass(frozen=True)
class Gpu:
    """Ceilings. Times in seconds."""

    name: str = "H200 (published or estimated)"
    multiprocessors: int = 132
    clock: float = 1.755e9
    shared_memory: int = 227 << 10  # of a block
    shared_bandwidth: int = 128  # bytes a clock and multiprocessor
    multiply_adds: Rates = Rates(128, 512, 1024)  # of FFMA and mma.sync, a clock and multiprocessor
    best_multiply_adds: Rates = Rates(128, 1024, 2048)  # of FFMA and wgmma
    l2_bandwidth: float = 5.5e12
    memory_bandwidth: float = 4.8e12
    gemm: Rates = Rates(50e12, 350e12, 700e12)  # operations
    clusters_of_sixteen: int = 8  # that run at once
    l2_latency: float = 0.28e-6  # of loads that wait for what was loaded before, or for a flag
    grid_exchange: float = 1.1e-6  # store and fence, flag, half a poll too late, fence: four times through L2
    cluster_exchange: float = 0.5e-6  # the last st.async on its way, mbarrier
    peer_bandwidth: int = 14  # bytes a clock and multiprocessor, of st.async in 8 or 16 bytes
    launch: float = 8e-6  # from one launch to the next: its start, and weights on their way to the blocks
    waits_of_cells: float = 0.11e-6  # two barriers of a block, and what each instruction waits for the one before
    least_exchange: float = 0.5e-6  # that a step cannot do without


@dataclass(frozen=True)
class Prediction:
    """Of a call, forward alone or both ways; times in microseconds."""

    cell: str
    precision: str
    mode: str
    case: Case
    layers: int
    path: str
    us_per_step: float  # of the time loops
    floor_us_per_step: float  # whatever the kernels
    products_us_per_step: float  # what a step has in the large products outside the time loops

    def share(self, us_per_step: float) -> float:
        """How much of a step's time, large products included, nothing could save."""
        return (self.floor_us_per_step + self.products_us_per_step) / us_per_step

    @property
    def call_us_per_step(self) -> float:
        return self.us_per_step + self.products_us_per_step


@dataclass(frozen=True)
class Grid:
    """How a pass is dealt: as csrc/cuda/plan.cpp does, but for shared memory that is only nearly counted here."""

    path: str
    units: int
    blocks: int
    tiles: int  # of a block's batch rows, in turn
    groups: int = 1  # of batch rows, that run at once
    split: int = 1  # blocks of a persistent kernel that split the depth of a product
    calls: int = 1  # layers that run at once

    def __str__(self) -> str:
        split = f" split by {self.split}" if self.split > 1 else ""
        calls = f", {self.calls} layers at once" if self.calls > 1 else ""
        return f"{self.path} {self.blocks} x {self.units}{split}{calls}"


def held_weights(cell: str, precision: str, hidden: int, units: int) -> int:
    """Bytes of a block's weights in shared memory: what the registers do not take, for tensor cores."""
    all_of_them = GATES[cell] * units * hidden * BYTES[precision]
    return all_of_them if precision == "f32" else max(0, all_of_them - REGISTER_BYTES)


def shared_memory(cell: str, precision: str, hidden: int, grid: Grid, backward: bool) -> int:
    size, tile = BYTES[precision], ROWS * grid.units
    weights = held_weights(cell, precision, hidden, grid.units)
    if backward:
        inputs = tile * ((SAVED_VALUES[cell] + 1) * size + 8 * (cell == "LSTM"))
        if grid.path == "cluster":
            return weights + inputs + grid.tiles * 2 * hidden * (ROWS + 2) * 4 + GATES[cell] * tile * 4
        parts = 4 * grid.split if grid.split > 1 else 0
        return weights + inputs + (WARPS * grid.split + parts) * 16 * (ROWS + 2) * 4
    sums = WARPS * GATES[cell] * 16 * (ROWS + 2) * 4
    states = grid.tiles * 2 * ROWS * (hidden + 16) * size if grid.path == "cluster" else 0
    return weights + sums + states + GATES[cell] * tile * size


def most_calls(grid: Grid, case: Case, layers: int, room: int) -> Grid:
    """As many layers at once as leave each the groups that it would have alone."""
    if case.steps < 2 * SUB_CHUNK_STEPS:
        return grid
    together = (calls for calls in range(min(layers, CALLS_AT_ONCE), 1, -1) if grid.groups * calls <= room)
    return replace(grid, calls=next(together, 1))


def dealt(cell: str, precision: str, case: Case, backward: bool, gpu: Gpu, layers: int = 1) -> Grid | None:
    """The plan; None if the layer would be streamed."""
    hidden, tiles = case.hidden_size, -(-case.batch // ROWS)
    if hidden % 16:
        return None
    found: list[Grid] = []
    for units in CLUSTER_UNITS:
        blocks = hidden // units
        if hidden % units == 0 and blocks <= LARGEST_CLUSTER:
            clusters = gpu.clusters_of_sixteen * LARGEST_CLUSTER // blocks
            grid = Grid("cluster", units, blocks, -(-tiles // min(tiles, clusters)), min(tiles, clusters))
            found.append(most_calls(grid, case, layers, clusters))
    found.sort(key=lambda grid: grid.tiles * -(-layers // grid.calls))
    blocks = hidden // 16
    if blocks <= gpu.multiprocessors:
        groups = min(tiles, gpu.multiprocessors // blocks)
        whole = Grid("persistent", 16, blocks, -(-tiles // groups), groups)
        whole = most_calls(whole, case, layers, gpu.multiprocessors // blocks)
        found += [split(whole)] if backward and pays_to_split(cell, precision, case, whole, gpu) else []
        found.append(whole)
    fits = (grid for grid in found if shared_memory(cell, precision, hidden, grid, backward) <= gpu.shared_memory)
    return next(fits, None)


def read_in_step(cell: str, precision: str, case: Case, grid: Grid, backward: bool) -> int:
    """Bytes that the blocks of a persistent kernel read at a step, all together: of h, or of the gates' gradients."""
    values = case.hidden_size * (GATES[cell] if backward else 1) // grid.split
    return grid.calls * grid.blocks * case.batch * values * BYTES[precision]


def split(grid: Grid) -> Grid:
    return replace(grid, split=SPLIT_BLOCKS)


def pays_to_split(cell: str, precision: str, case: Case, grid: Grid, gpu: Gpu) -> bool:
    fit = gpu.clusters_of_sixteen * LARGEST_CLUSTER // SPLIT_BLOCKS
    there_is_one = GATES[cell] > 1 and precision != "f32" and grid.blocks % SPLIT_BLOCKS == 0
    enough = read_in_step(cell, precision, case, grid, True) >= LEAST_BYTES_TO_SPLIT
    return there_is_one and enough and grid.calls * grid.blocks * grid.groups <= fit * SPLIT_BLOCKS


def loads_in_turn(cell: str, precision: str, hidden: int, grid: Grid, backward: bool) -> int:
    """How often a warp of a persistent kernel waits for what it multiplies."""
    columns = hidden * (GATES[cell] if backward else 1) // grid.split
    pieces = -(-columns // PIECE[precision] // WARPS)
    slices = grid.split if backward else GATES[cell]
    held = REGISTER_BYTES // (THREADS * 16 * slices)
    # nvcc moves loads for pieces beyond the registers' behind the products of those.
    moved = pieces > held and slices > 1 and precision != "f32"
    return -(-pieces // LOADS_AHEAD[precision]) + moved


def cell_seconds(cell: str, grid: Grid, backward: bool, gpu: Gpu) -> float:
    """Of a tile. Two warps share a scheduler, which issues an instruction a clock."""
    rows = grid.units // 16  # of a thread
    instructions = CELL_INSTRUCTIONS[cell][backward] * rows + PRODUCT_INSTRUCTIONS
    return gpu.waits_of_cells + 2 * instructions / gpu.clock


def step_seconds(cell: str, precision: str, case: Case, grid: Grid, backward: bool, gpu: Gpu) -> float:
    """One step of one pass: an exchange, then for each tile its product, as long as the slowest part, and its cells."""
    size, gates, hidden = BYTES[precision], GATES[cell], case.hidden_size
    operations = gates * grid.units * hidden * ROWS / gpu.multiply_adds.of(precision) / gpu.clock
    weights = held_weights(cell, precision, hidden, grid.units)
    if grid.path == "cluster":
        # Forward, the groups of warps that share h read all of it each, and their sums meet; backward, dh arrives.
        moved = 4 * hidden * ROWS * 2 if backward else (grid.units // 16) * hidden * ROWS * size
        sums = 0 if backward else 2 * WARPS * gates * 16 * ROWS * 4
        exchange, through_l2, latencies = gpu.cluster_exchange, 0.0, 0.0
        sent_rows = min(ROWS, case.batch + case.batch % 2 if backward else case.batch)
        from_peers = hidden * sent_rows * (4 if backward else size)
    else:
        # Split, what the blocks of a cluster exchange of one tile travels behind the next one's product.
        moved = 2 * grid.split * grid.units * ROWS * 4 if grid.split > 1 else 0
        sums = 2 * WARPS * (grid.split if backward else gates) * 16 * ROWS * 4
        exchange = gpu.grid_exchange + (gpu.cluster_exchange if grid.split > 1 else 0)
        through_l2 = read_in_step(cell, precision, case, grid, backward) / grid.tiles / gpu.l2_bandwidth
        latencies = gpu.l2_latency * loads_in_turn(cell, precision, hidden, grid, backward)
        from_peers = moved
    shared = (weights + moved + sums) / gpu.shared_bandwidth / gpu.clock
    product = max(operations, shared, through_l2, latencies) + from_peers / gpu.peer_bandwidth / gpu.clock
    return exchange + grid.tiles * (product + cell_seconds(cell, grid, backward, gpu))


def stack_seconds(cell: str, precision: str, case: Case, layers: int, grid: Grid, backward: bool, gpu: Gpu) -> float:
    """One step of all layers: those at once are a part behind one another, and wait for a launch at each."""
    turns = -(-layers // grid.calls)
    step = step_seconds(cell, precision, case, grid, backward, gpu)
    if grid.calls == 1:
        return turns * step
    sub_chunks = case.steps // SUB_CHUNK_STEPS
    launches = sub_chunks + grid.calls - 1
    return turns * launches * (step * case.steps / sub_chunks + gpu.launch) / case.steps


def floor_seconds(cell: str, precision: str, case: Case, layers: int, gpu: Gpu) -> float:
    """The layers' products of a step on all multiprocessors, behind one exchange."""
    rate = gpu.multiprocessors * gpu.best_multiply_adds.of(precision) * gpu.clock
    return gpu.least_exchange + layers * GATES[cell] * case.hidden_size**2 * case.batch / rate


def large_products(cell: str, precision: str, case: Case, backward: bool, gpu: Gpu) -> float:
    """Those outside the time loop, bound by operations or by memory."""
    rows, columns = case.steps * case.batch, GATES[cell] * case.hidden_size
    inner = (case.input_size,) if not backward else (case.input_size, case.input_size, case.hidden_size)
    rate = gpu.gemm.of(precision)
    moved = BYTES[precision] / gpu.memory_bandwidth
    return sum(max(2 * rows * columns * k / rate, (rows * (columns + k) + columns * k) * moved) for k in inner)


def predict(cell: str, precision: str, mode: str, case: Case, gpu: Gpu, layers: int = 1) -> Prediction | None:
    """None where a pass would be streamed: that is cuBLAS's time, once a step."""
    passes = (False, True) if mode == "training" else (False,)
    grids = [dealt(cell, precision, case, backward, gpu, layers) for backward in passes]
    upper = replace(case, input_size=case.hidden_size)
    step, products = 0.0, 0.0
    for backward, grid in zip(passes, grids, strict=True):
        if grid is None:
            return None
        step += stack_seconds(cell, precision, case, layers, grid, backward, gpu)
        for layer in (case, *[upper] * (layers - 1)):
            products += large_products(cell, precision, layer, backward, gpu)
    floor = len(passes) * floor_seconds(cell, precision, case, layers, gpu)
    path = ", ".join(dict.fromkeys(map(str, grids)))
    return Prediction(cell, precision, mode, case, layers, path, step * 1e6, floor * 1e6, products / case.steps * 1e6)


def square(steps: int, batch: int, hidden: int) -> Case:
    return Case(steps, batch, hidden, hidden)


# What the project wants to be fast at: cell, precision, shape, layers.
WANTED: list[tuple[str, str, Case, int]] = [
    *((cell, "bf16", square(512, batch, hidden), 1) for cell in ("LSTM", "GRU") for batch in (1, 16, 64)
      for hidden in (256, 512, 1024)),
    *(("LSTM", "tf32", square(512, batch, hidden), 1) for batch in (1, 16, 64) for hidden in (256, 512, 1024)),
    *(("LSTM", precision, square(512, 64, hidden), 1) for precision in ("f32", "tf32") for hidden in (128, 192)),
    *(("LSTM", "bf16", square(512, 256, hidden), 1) for hidden in (512, 1024)),
    ("LSTM", "bf16", square(1024, 16, 768), 1),
    ("LSTM", "bf16", square(512, 32, 512), 2),
]  # fmt: skip
HEADINGS = ("layers", "precision", "mode", "T", "B", "H", "path", "us/step", "floor", "share", "with products", "share")


def line(row: Prediction) -> str:
    case = row.case
    loops = f"{row.us_per_step:.2f}", f"{row.floor_us_per_step:.2f}", f"{row.floor_us_per_step / row.us_per_step:.0%}"
    figures = (*loops, f"{row.call_us_per_step:.2f}", f"{row.share(row.call_us_per_step):.0%}")
    layers = f"{row.layers} x {row.cell}" if row.layers > 1 else row.cell
    cells = (layers, row.precision, row.mode, case.steps, case.batch, case.hidden_size, row.path, *figures)
    return f"| {' | '.join(map(str, cells))} |"


def table(rows: list[Prediction]) -> str:
    return "\n".join([f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|", *map(line, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    gpu = Gpu()
    modes = "inference", "training"
    found = (predict(*wanted[:2], mode, wanted[2], gpu, wanted[3]) for wanted in WANTED for mode in modes)
    rows = [row for row in found if row]
    print(f"Predictions, not measurements, on an {gpu.name}; streamed layers left out.\n\n{table(rows)}")


if __name__ == "__main__":
    main()
