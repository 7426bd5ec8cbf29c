"""JordanRNN against the three recurrences written out, step by step, in f64."""

import copy
import itertools
import pickle

import pytest
import torch
from cases import assert_same, outputs_and_gradients, randn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn.modules.jordan import RECURRENCES

pytestmark = pytest.mark.thorough

FUNCTIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda x: x}
LAYOUTS = ("batched", "batch_first", "unbatched", "packed", "lengths")
STEPS, LENGTHS, INPUT, HIDDEN, OUTPUT = 6, (4, 6, 1), 3, 5, 4


def build(recurrence="output_to_hidden", nonlinearity="tanh", output_nonlinearity="identity", **options):
    sizes = (INPUT, HIDDEN, OUTPUT)
    return fastrnn.JordanRNN(*sizes, recurrence, nonlinearity, output_nonlinearity, dtype=torch.float64, **options)


def draw(module, batch=3):
    features = HIDDEN if module.recurrence == "hidden_to_hidden" else OUTPUT
    return {
        "input": randn(STEPS, batch, INPUT, dtype=torch.float64),
        "hx": randn(1, batch, features, dtype=torch.float64),
    }


def loop(module, leaves, lengths):
    """Padded output and the final state, one sequence after the other."""
    s_h, s_o = FUNCTIONS[module.nonlinearity], FUNCTIONS[module.output_nonlinearity]
    b_h, b_o = (module.bias_h, module.bias_o) if module.bias else (0, 0)
    outputs, finals = [], []
    for b, length in enumerate(lengths):
        state, rows = leaves["hx"][0, b], []
        for t in range(STEPS):
            if t >= length:
                rows.append(torch.zeros(OUTPUT, dtype=torch.float64))
                continue
            from_input = module.weight_ih @ leaves["input"][t, b] + b_h
            if module.recurrence == "hidden_to_hidden":
                state = s_h(from_input + module.weight_hh @ state)
                rows.append(s_o(module.weight_ho @ state + b_o))
            elif module.recurrence == "output_to_hidden":
                state = s_o(module.weight_ho @ s_h(from_input + module.weight_oh @ state) + b_o)
                rows.append(state)
            else:
                state = s_o(module.weight_ho @ s_h(from_input) + module.weight_oo @ state + b_o)
                rows.append(state)
        outputs.append(torch.stack(rows))
        finals.append(state)
    return torch.stack(outputs, 1), torch.stack(finals).unsqueeze(0)


def run(module, leaves, layout, lengths):
    """The module's call in its layout, its results padded and batched."""
    input, hx, keywords = leaves["input"], leaves["hx"], {}
    if layout == "batch_first":
        input = input.transpose(0, 1)
    elif layout == "unbatched":
        input, hx = input[:, 0], hx[:, 0]
    elif layout == "packed":
        input = pack_padded_sequence(input, lengths, enforce_sorted=False)
    elif layout == "lengths":
        keywords["lengths"] = torch.tensor(lengths)
    output, state = module(input, hx, **keywords)
    if isinstance(output, PackedSequence):
        output, _ = pad_packed_sequence(output, total_length=STEPS)
    elif layout == "batch_first":
        output = output.transpose(0, 1)
    elif layout == "unbatched":
        output, state = output.unsqueeze(1), state.unsqueeze(1)
    return output, state


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_equals_the_loop(recurrence, bias, layout):
    module = build(recurrence, "tanh", "sigmoid", bias=bias, batch_first=layout == "batch_first")
    lengths = LENGTHS if layout in ("packed", "lengths") else (STEPS,) * (1 if layout == "unbatched" else 3)
    leaves = draw(module, len(lengths))
    expected = outputs_and_gradients(module, leaves, lambda module, leaves: loop(module, leaves, lengths))
    actual = outputs_and_gradients(module, leaves, lambda module, leaves: run(module, leaves, layout, lengths))
    assert_same(expected, actual, 1e-11)


@pytest.mark.parametrize(("hidden", "output"), list(itertools.product(FUNCTIONS, repeat=2)))
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_nonlinearities(recurrence, hidden, output):
    module = build(recurrence, hidden, output)
    leaves, lengths = draw(module), (STEPS,) * 3
    expected = outputs_and_gradients(module, leaves, lambda module, leaves: loop(module, leaves, lengths))
    actual = outputs_and_gradients(module, leaves, lambda module, leaves: run(module, leaves, "batched", lengths))
    assert_same(expected, actual, 1e-11)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_gradcheck(recurrence):
    module = build(recurrence, "sigmoid", "tanh")
    leaves = [leaf.requires_grad_() for leaf in draw(module, 2).values()]
    names = [name for name, _ in module.named_parameters()]

    def function(input, hx, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (input, hx))

    inputs = (*leaves, *module.parameters())
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_compiles_without_graph_breaks(recurrence):
    torch._dynamo.reset()
    module = build(recurrence, "relu", "tanh")
    leaves, lengths = draw(module), torch.tensor(LENGTHS)

    def call(module, leaves):
        return module(leaves["input"], leaves["hx"], lengths=lengths)

    expected = outputs_and_gradients(module, leaves, call)
    actual = outputs_and_gradients(torch.compile(module, fullgraph=True, backend="aot_eager"), leaves, call)
    assert_same(expected, {name.replace("_orig_mod.", ""): value for name, value in actual.items()}, 1e-12)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_runs_fused(recurrence):
    module = build(recurrence)
    rows = fastrnn.explain(module, draw(module)["input"]).rows
    assert [row.path for row in rows] == ["fused with extras"] * 2


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_resets(recurrence):
    """A batch with a reset in its middle is two batches."""
    module = build(recurrence)
    input = draw(module)["input"]
    resets = torch.zeros(STEPS, 3, dtype=torch.bool)
    resets[2] = True
    output, state = module(input, resets=resets)
    parts = [module(input[:2]), module(input[2:])]
    torch.testing.assert_close(output, torch.cat([part[0] for part in parts]))
    torch.testing.assert_close(state, parts[1][1])


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_module(recurrence):
    """Parameters, repr, copies, the states by default, half types, bits on any number of threads."""
    module = build(recurrence, output_nonlinearity="tanh")
    weight = {"hidden_to_hidden": "weight_hh", "output_to_hidden": "weight_oh", "output_to_output": "weight_oo"}
    names = {"weight_ih", weight[recurrence], "weight_ho", "bias_h", "bias_o"}
    assert set(module.state_dict()) == names
    changed = "" if recurrence == "output_to_hidden" else f", recurrence={recurrence!r}"
    assert repr(module) == f"JordanRNN(3, 5, 4{changed}, output_nonlinearity='tanh')"
    leaves = draw(module)
    expected = module(leaves["input"])
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(leaves["input"])[0], expected[0])
    explicit = module(leaves["input"], torch.zeros_like(leaves["hx"]))
    assert all(map(torch.equal, explicit, expected))
    half = copy.deepcopy(module).bfloat16()(leaves["input"].bfloat16())[0]
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected[0], atol=0.05, rtol=0)
    torch.set_num_threads(2)
    assert torch.equal(module(leaves["input"])[0], expected[0])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, 5, 4), ValueError, "input_size"),
        ((3, 5.0, 4), TypeError, "hidden_size"),
        ((3, 5, -1), ValueError, "output_size"),
        ((3, 5, 4, "input_to_output"), ValueError, "hidden_to_hidden"),
        ((3, 5, 4, "output_to_hidden", "gelu"), ValueError, "sigmoid"),
        ((3, 5, 4, "output_to_hidden", "tanh", "softmax"), ValueError, "output_nonlinearity"),
        ((3, 5, 4, "output_to_hidden", "tanh", "tanh", 1), TypeError, "bias"),
    ],
)
def test_refused_at_construction(arguments, error, match):
    with pytest.raises(error, match=match):
        fastrnn.JordanRNN(*arguments)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_refused_at_a_call(recurrence):
    module = fastrnn.JordanRNN(3, 5, 4, recurrence)
    with pytest.raises(RuntimeError, match=r"JordanRNN: input\.size"):
        module(torch.randn(6, 2, 4))
    with pytest.raises(ValueError, match="JordanRNN"):
        module(torch.randn(6, 2, 3, 3))
    with pytest.raises(RuntimeError, match="JordanRNN"):
        module(torch.randn(6, 2, 3), torch.zeros(1, 2, 7))
