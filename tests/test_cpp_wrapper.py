"""Inductor's C++ wrapper (`torch._inductor.config.cpp_wrapper`) calls no op that returns lists."""

import pytest
import torch
import torch._inductor.config
from cases import CELLS, KERNELS, randn
from functorch.compile import make_boxed_func
from test_compile import assert_equal_to_eager, build
from torch._dynamo.backends.common import aot_autograd

import fastrnn

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def _wrapped():
    torch._dynamo.reset()
    with torch._inductor.config.patch(cpp_wrapper=True):
        yield
    torch._dynamo.reset()


def traced(module):
    """The module compiled as aot_eager does it, and the ops of fastrnn's that come into its graphs."""
    found = []

    def compiler(graph, _):
        found.extend(n.target for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload))
        return make_boxed_func(graph.forward)

    return torch.compile(module, fullgraph=True, backend=aot_autograd(fw_compiler=compiler)), found


def assert_tensors_alone(found):
    ours = {op for op in found if op.namespace.startswith("fastrnn")}
    assert ours
    for op in ours:
        assert all(isinstance(result.type, torch.TensorType) for result in op._schema.returns), op
    return {op._opname for op in ours}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bidirectional", (False, True))
def test_layers(kernel, bidirectional):
    module = build(kernel, num_layers=2, bidirectional=bidirectional)
    function, found = traced(module)
    value = randn(4, 6, 3).requires_grad_()
    assert_equal_to_eager(module, function, (value,), (value,))
    assert assert_tensors_alone(found) == {"forward", "backward"}


@pytest.mark.parametrize("options", ({"peephole": True}, {"zoneout": 0.2}, {"layer_norm": True}), ids=str)
def test_options(options):
    module = fastrnn.LSTM(3, 5, **options).eval()
    function, found = traced(module)
    value, lengths, resets = randn(4, 6, 3).requires_grad_(), torch.tensor([4, 2, 0, 3, 1, 4]), torch.rand(4, 6) < 0.5
    how = {"lengths": lengths, "resets": resets, "return_states": True}
    assert_equal_to_eager(module, function, (value,), (value,), **how)
    assert_tensors_alone(found)


@pytest.mark.parametrize("name", CELLS)
def test_cells(name):
    module = getattr(fastrnn, name)(3, 5)
    function, found = traced(module)
    value = randn(6, 3).requires_grad_()
    assert_equal_to_eager(module, function, (value,), (value,))
    assert_tensors_alone(found)


def test_bfloat16():
    """Which reads its weights as they are elsewhere."""
    module = fastrnn.GRU(3, 5).bfloat16()
    function, found = traced(module)
    value = randn(4, 6, 3).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(function(value), module(value))
    assert assert_tensors_alone(found) == {"forward"}


@pytest.mark.parametrize("layer", ("LSTM", "GRU"))
def test_second_derivatives(layer):
    """Of what backend "eager" makes, which differentiates the ops themselves."""
    module = getattr(fastrnn, layer)(2, 3, dtype=torch.float64)
    function = torch.compile(module, backend="eager", fullgraph=True)
    value = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    results = []
    for run in (function, module):
        (first,) = torch.autograd.grad(run(value)[0].sin().sum(), value, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), (value, *module.parameters())))
    torch.testing.assert_close(*results)


def test_programs_are_what_they_were():
    """They are to run in processes that know no op of Python's."""
    program = torch.export.export(fastrnn.GRU(3, 5), (randn(4, 6, 3),))
    ours = [n.target for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    assert [op for op in ours if op.namespace.startswith("fastrnn")] == [torch.ops.fastrnn.forward.default]


@pytest.mark.long  # minutes of a C++ compiler, for torch's headers
@pytest.mark.parametrize("layer", ("LSTM", "GRU"))
def test_compiled(layer):
    module = getattr(fastrnn, layer)(3, 5, 2, bidirectional=True).double()
    function = torch.compile(module, fullgraph=True)
    value = randn(4, 6, 3).double().requires_grad_()
    assert_equal_to_eager(module, function, (value,), (value,))
