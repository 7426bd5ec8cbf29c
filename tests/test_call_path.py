"""The way from a module to its op: how long it is, and what stands at its end, which exported programs contain."""

import sys
from pathlib import Path

import pytest
import torch
from cases import CELLS, LAYERS

import fastrnn
from fastrnn._ops import schema

SCHEMAS = Path(__file__).parent / "schemas.txt"
MOST_FRAMES = 7  # of ours, from a module's forward to the op
MOST_OPS = 12


def frames_of(module, value, monkeypatch, op):
    """Our frames on the stack where the op is called, the outermost first."""
    found, run = [], getattr(schema, op)

    def look(*arguments):
        frame = sys._getframe(1)
        while frame is not None:
            if Path(frame.f_code.co_filename).is_relative_to(Path(fastrnn.__file__).parent):
                found.insert(0, f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
            frame = frame.f_back
        return run(*arguments)

    monkeypatch.setattr(schema, op, look)
    module(value)
    return found


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@pytest.mark.parametrize("op", ("plain_forward", "plain_infer"))
def test_few_frames_stand_before_the_op(monkeypatch, name, op):
    module = getattr(fastrnn, name)(3, 4).requires_grad_(op == "plain_forward")
    value = torch.randn(5, 2, 3) if name in LAYERS else torch.randn(2, 3)
    frames = frames_of(module, value, monkeypatch, op)
    assert frames[0].endswith(".forward")
    assert len(frames) <= MOST_FRAMES, frames


def schemas():
    names = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastrnn::"))
    return [str(torch._C._get_schema(*(name.split(".") if "." in name else (name, "")))) for name in names]


def test_schemas_are_those_on_record():
    """A change breaks programs exported before: it is a decision, and .venv/bin/python tests/test_call_path.py
    records it."""
    assert schemas() == SCHEMAS.read_text().splitlines()
    assert len(schemas()) <= MOST_OPS


def test_an_unknown_cell_is_named():
    value, hx = torch.zeros(1, 1, 3), torch.zeros(1, 1, 4)
    with pytest.raises(RuntimeError, match="unknown cell 'gur'"):
        schema.plain_infer("gur", [value, hx, value, hx], None, False, False, None)


def test_another_version_of_a_cell_is_refused():
    """A graph holds a user's cell as name@hash: exported with one text of it, it must not run with another."""
    value, hx, w = torch.zeros(1, 1, 3), torch.zeros(1, 1, 4), torch.zeros(12, 3)
    for op in (schema.forward, schema.infer):
        for device in ("cpu", "meta"):
            tensors = value.to(device), [hx.to(device)], [w.to(device), w.to(device)]
            with pytest.raises(RuntimeError, match=r"another version of 'gru', gru@0123: export or compile it again"):
                op("gru@0123", *tensors, None, False, False, *[None] * 5, False, None)


def test_a_cells_name_leaves_no_memory_behind():
    """torch's own conversion to std::string leaks one a call."""
    primals = [torch.zeros(1, 1, 3), torch.zeros(1, 1, 4), torch.zeros(4, 3), torch.zeros(4, 4)]

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1])

    def run(times):
        for _ in range(times):
            schema.plain_infer("rnn_tanh", primals, None, False, False, None)

    run(1000)
    before = resident()
    run(30_000)
    assert resident() - before < 30_000 * 32 / 4096 / 2, "pages of some 32 bytes a call"


if __name__ == "__main__":
    SCHEMAS.write_text("\n".join(schemas()) + "\n")
