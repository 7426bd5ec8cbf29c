"""Two kernels at once that keep their weights on the chip and nearly fill an H200 each: python crowded.py HOW LAYER H

Blocks of one that wait for blocks which the other keeps out would wait for ever, so this may hang: it is for a process
of its own. Matrix products run beside them for company.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import fastrnn

# On two streams, also of different priority, from two threads, or as branches of a graph.
HOWS = ("streams", "priority", "threads", "graph")
HIDDEN = (1024, 512)  # persistent kernels, and clusters
STEPS, BATCH, INPUT_SIZE, ROUNDS = 60, 64, 128, 20


class Crowd:
    """Two layers and the streams that they run on; `company` is called on a third stream before each round."""

    def __init__(self, layer, hidden, priorities=(0, 0), company=None):
        self.half = {"dtype": torch.bfloat16, "device": "cuda"}
        self.modules = [getattr(fastrnn, layer)(INPUT_SIZE, hidden, **self.half) for _ in range(2)]
        self.values = [torch.randn(STEPS, BATCH, INPUT_SIZE, requires_grad=True, **self.half) for _ in range(2)]
        self.streams = [torch.cuda.Stream(priority=priority) for priority in priorities]
        self.third = torch.cuda.Stream()
        self.company = company or self._multiply
        self.factor = torch.randn(8192, 8192, **self.half)

    def why_streamed(self):
        """Why they do not keep their weights on the chip, or ""."""
        rows = fastrnn.explain(self.modules[0], self.values[0]).rows
        return next((row.reason for row in rows if row.path == "streamed"), "")

    def prepare(self):
        """What each computes alone; cuBLAS gets what it wants for each stream."""
        self.expected = [self._results(index) for index in range(2)]
        torch.cuda.synchronize()
        for index in range(2):
            self.on_stream(index)
        self.accompany()
        torch.cuda.synchronize()

    def accompany(self):
        with torch.cuda.stream(self.third):
            self.company()

    def on_stream(self, index):
        with torch.cuda.stream(self.streams[index]):
            return self._results(index)

    def check(self, results):
        torch.cuda.synchronize()
        for actual, right in zip(results, self.expected, strict=True):
            assert all(map(torch.equal, actual, right)), "another result beside another kernel"

    def _results(self, index):
        module, value = self.modules[index], self.values[index]
        output = module(value)[0]
        return [output, *torch.autograd.grad(output.float().sum(), [value, *module.parameters()])]

    def _multiply(self):
        return self.factor @ self.factor


def run_on_streams(crowd):
    for _ in range(ROUNDS):
        crowd.accompany()
        crowd.check([crowd.on_stream(0), crowd.on_stream(1)])


def run_in_threads(crowd):
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            crowd.check(list(pool.map(crowd.on_stream, range(2))))


def run_as_graph(crowd):
    graph = torch.cuda.CUDAGraph()
    branches = (*crowd.streams, crowd.third)
    with torch.cuda.graph(graph):
        for stream in branches:
            stream.wait_stream(torch.cuda.current_stream())
        crowd.accompany()
        results = [crowd.on_stream(0), crowd.on_stream(1)]
        for stream in branches:
            torch.cuda.current_stream().wait_stream(stream)
    for _ in range(ROUNDS):
        graph.replay()
        crowd.check(results)


def run(how, layer, hidden, company=None):
    """Raises where results differ; returns why the layers were streamed, or ""."""
    torch.manual_seed(0)
    least, greatest = torch.cuda.Stream.priority_range()
    crowd = Crowd(layer, hidden, (least, greatest) if how == "priority" else (0, 0), company)
    why = crowd.why_streamed()
    if not why:
        crowd.prepare()
        {"threads": run_in_threads, "graph": run_as_graph}.get(how, run_on_streams)(crowd)
    return why


def main():
    how, layer, hidden = sys.argv[1:]
    why = run(how, layer, int(hidden))
    if why:
        print("streamed:", why)
        sys.exit("should keep its weights on the chip" if torch.cuda.get_device_capability() >= (9, 0) else 0)


if __name__ == "__main__":
    main()
