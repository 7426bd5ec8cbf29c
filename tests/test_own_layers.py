"""Layers of one's own: the kernels against the formula, loops over the function, and our own LSTM and GRU."""

import pytest
import torch
from own_cells import (
    CELLS,
    GRU,
    KINKED,
    LSTM,
    QUICK,
    Highway,
    Peephole,
    Readout,
    by_cell,
    evaluated,
    formula,
    looped,
    on_states,
    params,
    randn,
    states_of,
    tensors,
)
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn

pytestmark = pytest.mark.usefixtures("kept_cells")

F64 = {"dtype": torch.float64}
STACKS = ({}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False, "batch_first": True})


def assert_equal(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance or {"rtol": 1e-9, "atol": 1e-10})


def check(layer, value, hx, **given):
    """The kernels' results and gradients are the formula's."""
    draw = torch.get_rng_state()
    ours = evaluated(layer, value, hx, **given)
    torch.set_rng_state(draw)
    with formula(type(layer)):
        theirs = evaluated(layer, value, hx, **given)
    assert_equal(ours, theirs)


def calls(layer, steps, batch):
    """A value, an hx and keywords for every form in which a layer may be given its input."""
    first = layer.batch_first

    def drawn(*more):
        value = randn(*((batch, steps) if first else (steps, batch)), layer.input_size)
        return (value, states_of(layer, batch), *more)

    lengths = torch.randint(0, steps + 1, (batch,))
    resets = torch.rand((batch, steps) if first else (steps, batch)) < 0.3
    yield drawn({})
    yield drawn({"lengths": lengths})
    yield drawn({"return_states": True})
    yield drawn({"resets": resets})
    yield drawn({"resets": resets, "reset_state": states_of(layer, batch), "lengths": lengths, "return_states": True})
    yield randn(steps, layer.input_size), states_of(layer), {"return_states": True}
    some = torch.randint(1, steps + 1, (batch,))
    value, hx = drawn()
    yield pack_padded_sequence(value, some, first, enforce_sorted=False), hx, {"return_states": True}
    rows = [randn(int(length), layer.input_size) for length in some]
    yield torch.nested.nested_tensor(rows, layout=torch.jagged), states_of(layer, batch), {"return_states": True}


@pytest.mark.isa
@by_cell
@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_kernels_compute_the_formula(kind, stack):
    layer = kind(3, 5, **stack, **F64)
    for value, hx, given in calls(layer, 6, 4):
        check(layer, value, hx, **given)


@pytest.mark.thorough
@pytest.mark.parametrize("threads", (1, 2), indirect=True)
@by_cell
def test_threads(kind, threads, chunks):
    layer = kind(40, 40, num_layers=2, bidirectional=True, **F64)
    chunks(24)
    check(layer, randn(9, 8, 40), states_of(layer, 8))


@pytest.mark.thorough
@by_cell
@pytest.mark.parametrize("hidden_size", (1, 5, 33))
def test_sizes(kind, hidden_size):
    layer = kind(5, hidden_size, **F64)
    for batch in range(1, 18):
        for steps in (1, 4):
            check(layer, randn(steps, batch, 5), states_of(layer, batch), return_states=True)


@by_cell
def test_long_sequences_in_chunks(kind, chunks):
    layer = kind(7, 9, bidirectional=True, **F64)
    chunks(20)
    for given in ({}, {"return_states": True}, {"lengths": torch.randint(0, 91, (3,))}):
        check(layer, randn(90, 3, 7), states_of(layer, 3), **given)


@by_cell
def test_layers_compute_the_function(kind):
    layer = kind(5, 7, num_layers=2, **F64)
    value, hx = randn(6, 3, 5), states_of(layer, 3)
    assert_equal(tensors(layer(value, hx)), tensors(looped(layer, value, hx)))


@by_cell
def test_both_directions(kind):
    """Each is a layer of its own, one of them over the reversed sequence; so is every state."""
    layer, ways = kind(3, 5, bidirectional=True, **F64), [kind(3, 5, **F64) for _ in range(2)]
    weights = layer.state_dict()
    ways[0].load_state_dict({name: value for name, value in weights.items() if not name.endswith("_reverse")})
    ways[1].load_state_dict({n.removesuffix("_reverse"): w for n, w in weights.items() if n.endswith("_reverse")})
    value, hx = randn(4, 2, 3), states_of(layer, 2)
    output, hy, states = layer(value, hx, return_states=True)
    ahead, last, every = ways[0](value, on_states(lambda one: one[:1], hx), return_states=True)
    behind, first, all_behind = ways[1](value.flip(0), on_states(lambda one: one[1:], hx), return_states=True)
    assert_equal([output], [torch.cat([ahead, behind.flip(0)], -1)])
    assert_equal(tensors(hy), [torch.cat(pair) for pair in zip(tensors(last), tensors(first), strict=True)])
    assert_equal(states, [torch.cat([one, other.flip(0)], -1) for one, other in zip(every, all_behind, strict=True)])


@pytest.mark.isa
@pytest.mark.parametrize("kind", params([kind for kind in QUICK if kind not in KINKED]))
def test_float32(kind):
    """Results and gradients are those of float64, but for rounding."""
    exact = kind(5, 19, num_layers=2, bidirectional=True, **F64)
    value, hx = randn(8, 6, 5), states_of(exact, 6)
    layer = kind(5, 19, num_layers=2, bidirectional=True)
    layer.load_state_dict(exact.state_dict())
    ours = evaluated(layer, value.float(), on_states(torch.Tensor.float, hx), return_states=True)
    theirs = evaluated(exact, value, hx, return_states=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-5 * max(1.0, other.abs().max().item()))


@pytest.mark.parametrize("kind", (LSTM, GRU), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_ours_with_the_same_weights(kind, stack):
    layer, ours = kind(3, 9, **stack, **F64), getattr(fastrnn, kind.__name__)(3, 9, **stack, **F64)
    ours.load_state_dict(layer.state_dict())
    value, hx = randn(5, 5, 3), states_of(layer, 5)
    results = evaluated(layer, value, hx)
    theirs = evaluated(ours, value, hx)
    assert_equal(results, theirs)


@pytest.mark.thorough
def test_peepholes_with_the_same_weights():
    layer, ours = Peephole(3, 9, **F64), fastrnn.LSTM(3, 9, peephole=True, **F64)
    weights = layer.state_dict()
    weights["weight_c_l0"] = torch.stack([weights.pop(f"w_{gate}_l0") for gate in "ifo"])
    ours.load_state_dict(weights)
    value, hx = randn(5, 4, 3), states_of(layer, 4)
    assert_equal(tensors(layer(value, hx)), tensors(ours(value, hx)))


@by_cell
def test_every_state_is_the_last_of_its_prefix(kind):
    layer = kind(3, 5, num_layers=2, **F64)
    value, hx = randn(4, 2, 3), states_of(layer, 2)
    output, final, states = layer(value, hx, return_states=True)
    assert len(states) == len(layer._own.graph.states)
    assert (output is states[0]) == (layer._own.graph.output is None)
    for steps in range(1, 5):
        _, after = layer(value[:steps], hx)
        expected = [state[-1] for state in tensors(after)]
        assert_equal([state[steps - 1] for state in states], expected)
    assert_equal([state[-1] for state in states], [state[-1] for state in tensors(final)])


@by_cell
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
def test_cell_is_one_step_of_the_layer(kind, bias):
    layer, step = kind(3, 5, bias=bias, **F64), kind.Cell(3, 5, bias=bias, **F64)
    step.load_state_dict({name.removesuffix("_l0"): weight for name, weight in layer.state_dict().items()})
    value, hx = randn(4, 3), states_of(layer, 4)
    state = on_states(lambda one: one[0].clone(), hx)
    results = []
    for module, leaves in ((step, (value, state)), (layer, (value[None].clone(), hx))):
        leaves = [leaf.requires_grad_() for leaf in tensors(leaves)]
        given = leaves[0], tuple(leaves[1:]) if isinstance(hx, tuple) else leaves[1]
        outputs = tensors(module(*given))[module is layer and kind._own.graph.output is None :]
        loss = sum((index + 1) * output.sin().sum() for index, output in enumerate(outputs))
        results.append([*outputs, *torch.autograd.grad(loss, [*leaves, *module.parameters()])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-9, atol=1e-10)
    assert_equal(
        tensors(step(value[0], on_states(lambda one: one[0], state))), [one[0] for one in results[0]][: len(outputs)]
    )
    assert_equal(tensors(step(value)), tensors(step(value, on_states(torch.zeros_like, state))))


@by_cell
@pytest.mark.parametrize("steps", (1, 3))
def test_gradcheck(kind, steps):
    if kind in KINKED:
        torch.manual_seed(0)  # a finite difference across a kink is wrong, whatever we do
    layer = kind(2, 3, bidirectional=True, **F64)
    names = [name for name, _ in layer.named_parameters()]
    leaves = [randn(steps, 2, 2), *tensors(states_of(layer, 2)), *[p.detach().clone() for p in layer.parameters()]]
    count = len(leaves) - len(names)

    def function(value, *rest):
        hx, weights = rest[: count - 1], dict(zip(names, rest[count - 1 :], strict=True))
        given = (value, hx if len(hx) > 1 else hx[0])
        return tuple(tensors(torch.func.functional_call(layer, weights, given, {"return_states": True})))

    assert torch.autograd.gradcheck(function, [leaf.requires_grad_() for leaf in leaves], fast_mode=True)


@pytest.mark.thorough
def test_one_result_for_any_number_of_threads():
    """Bit for bit."""
    for kind in CELLS:
        layer = kind(40, 40, num_layers=2)
        value, hx = torch.randn(12, 16, 40), on_states(torch.Tensor.float, states_of(layer, 16))
        results = []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(evaluated(layer, value, hx))
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other)), kind.__name__


@pytest.mark.thorough
def test_output_of_no_state_is_not_fed_back():
    layer = Readout(3, 5, num_layers=2, **F64)
    value, hx = randn(4, 2, 3), states_of(layer, 2)
    first, after = layer(value[:2], hx)
    second, final = layer(value[2:], after)
    whole, expected = layer(value, hx)
    assert_equal([torch.cat([first, second]), *final], [whole, *expected])


def test_sizes_that_a_shape_of_weights_does_not_tell_apart():
    """w_ih (6, 3) is that of two gates and x_t itself with H = 3, and of three gates, x_t's the last, with H = 2."""
    value = randn(5, 4, 3)
    for hidden_size in (2, 3):
        layer = Highway(3, hidden_size, **F64)
        check(layer, value, states_of(layer, 4))
        cell = Highway.Cell(3, hidden_size, **F64)
        assert cell(value[0]).shape == (4, hidden_size)
        assert fastrnn.explain(layer, value).rows[0].reserve_bytes == 3 * hidden_size * 20 * 8


def test_cell_whose_hidden_size_nothing_tells():
    @fastrnn.cell(gates=2, recurrent="none", input=True)
    def Lone(inp, x, h):  # noqa: N802
        return torch.sigmoid(x[0]) * h + torch.tanh(x[1]) + inp

    with pytest.raises(ValueError, match="cannot be told from 3"):
        Lone.Cell(3, 2, bias=False)
    assert Lone.Cell(3, 2)(torch.randn(4, 3)).shape == (4, 2)
    assert Lone(3, 2, bias=False)(torch.randn(5, 4, 3))[0].shape == (5, 4, 2)
