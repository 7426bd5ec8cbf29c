"""Ragged batches without packing: `lengths=` and jagged nested tensors give what a PackedSequence gives."""

import numpy as np
import pytest
import torch
from cases import (
    LAYERS,
    Case,
    assert_same,
    call,
    draw_upstream,
    flatten,
    make_leaves,
    option_product,
    outputs_and_gradients,
    randn,
)
from primals import assert_close_trees
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn

NAN = float("nan")
LENGTHS = torch.tensor([2, 6, 1, 4, 3])  # the longest has all the steps, as pack_padded_sequence wants it for T

by_layer = pytest.mark.parametrize("layer", LAYERS)
by_options = pytest.mark.parametrize(
    ("layer", "options"), [(layer, options) for layer in LAYERS for options in option_product(layer)], ids=str
)


def case_of(layer, **options):
    return Case(layer, options, seq=6, batch=5)


def both(case):
    """A layer of ours, its arguments, and torch.nn's layer with the same weights; all f64."""
    ours, theirs = case.build(torch.float64, fastrnn), case.build(torch.float64)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, make_leaves(case, torch.float64)


def hx_of(leaves):
    if "hx" not in leaves:
        return None
    return (leaves["hx"], leaves["cx"]) if "cx" in leaves else leaves["hx"]


def with_lengths(lengths):
    return lambda module, leaves: module(leaves["input"], hx_of(leaves), lengths=lengths)


def packed(module, leaves, lengths=LENGTHS):
    """The same by way of a PackedSequence."""
    value = pack_padded_sequence(leaves["input"], lengths, module.batch_first, enforce_sorted=False)
    output, finals = module(value, hx_of(leaves))
    return pad_packed_sequence(output, module.batch_first)[0], finals


def padding(module, lengths, steps=6):
    """True where a sequence has ended, in the layout of the module's input."""
    ended = torch.arange(steps) >= lengths.unsqueeze(1)
    return ended if module.batch_first else ended.T


class TestEqualToPacking:
    @by_options
    @pytest.mark.parametrize("has_hx", (True, False))
    def test_results_and_every_gradient(self, layer, options, has_hx):
        """Against torch.nn, for every option."""
        case = Case(layer, options, has_hx=has_hx, seq=6, batch=5)
        ours, theirs, leaves = both(case)
        actual = outputs_and_gradients(ours, leaves, with_lengths(LENGTHS))
        assert_close_trees(actual, outputs_and_gradients(theirs, leaves, packed))

    @pytest.mark.thorough
    @by_layer
    @pytest.mark.parametrize("options", ({"bidirectional": True}, {"num_layers": 2}), ids=("directions", "layers"))
    def test_chunks_at_the_same_time(self, layer, options, threads, chunks):
        """Long enough for directions, or layers, to run at the same time on several threads."""
        chunks(512)
        lengths = torch.tensor([200, 1000, 777])
        ours, theirs, leaves = both(Case(layer, options, seq=1000, batch=3, hidden_size=96))
        actual = outputs_and_gradients(ours, leaves, with_lengths(lengths))
        expected = outputs_and_gradients(theirs, leaves, lambda *call: packed(*call, lengths))
        assert_close_trees(actual, expected)

    @by_layer
    @pytest.mark.parametrize("dtype", (torch.int64, torch.int32, torch.int16, torch.uint8))
    def test_integer_types(self, layer, dtype):
        ours, _, leaves = both(case_of(layer))
        actual = with_lengths(LENGTHS.to(dtype))(ours, leaves)
        assert_close_trees(flatten(actual), flatten(with_lengths(LENGTHS)(ours, leaves)))

    @by_layer
    def test_output_keeps_the_inputs_steps(self, layer):
        """Where packing would drop the steps that no sequence has."""
        ours, _, leaves = both(case_of(layer, bidirectional=True))
        output, _ = with_lengths(LENGTHS - 1)(ours, leaves)
        assert output.shape[0] == 6
        assert (output[padding(ours, LENGTHS - 1)] == 0).all()
        shorter = leaves | {"input": leaves["input"][:5]}
        assert torch.equal(output[:5], with_lengths(LENGTHS - 1)(ours, shorter)[0])

    @by_layer
    def test_input_of_any_layout(self, layer):
        """What is packed lies in memory as the user left it."""
        module, base = getattr(fastrnn, layer)(3, 5), randn(6, 5, 3)
        expected = module(base, lengths=LENGTHS)
        layouts = (base.transpose(0, 1).contiguous().transpose(0, 1), base.repeat(1, 2, 2)[:, :5, 3:])
        for value in (*layouts, base.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
            assert_same(flatten(module(value, lengths=LENGTHS)), flatten(expected), 0.0)

    @by_layer
    def test_full_lengths_change_nothing(self, layer):
        ours, _, leaves = both(case_of(layer, num_layers=2, bidirectional=True))
        actual = outputs_and_gradients(ours, leaves, with_lengths(torch.full((5,), 6)))
        assert_close_trees(actual, outputs_and_gradients(ours, leaves, call))

    @by_layer
    def test_stacked_with_dropout(self, layer):
        """Each element between the layers is dropped or doubled, and those of the padding are nobody's business."""
        case = case_of(layer, num_layers=2, dropout=1.0, bidirectional=True)
        ours, theirs, leaves = both(case)  # all dropped: the one probability whose result has no chance in it
        actual = outputs_and_gradients(ours, leaves, with_lengths(LENGTHS))
        assert_close_trees(actual, outputs_and_gradients(theirs, leaves, packed))
        ours.dropout = 0.5
        torch.manual_seed(5)
        first = with_lengths(LENGTHS)(ours, leaves)[0]
        assert not torch.equal(first, with_lengths(LENGTHS)(ours, leaves)[0])
        torch.manual_seed(5)
        assert torch.equal(first, with_lengths(LENGTHS)(ours, leaves)[0])
        assert (first[padding(ours, LENGTHS)] == 0).all()

    @by_layer
    @pytest.mark.parametrize("length", (0, 1, 3, 4))
    def test_unbatched(self, layer, length):
        """A single sequence has a single length."""
        case = Case(layer, {"bidirectional": True}, "unbatched", seq=4)
        ours, _, leaves = both(case)
        output, finals = with_lengths(torch.tensor(length))(ours, leaves)
        assert (output[length:] == 0).all()
        finals = finals if isinstance(finals, tuple) else (finals,)
        if length == 0:
            assert_close_trees(finals, [leaves[name] for name in ("hx", "cx") if name in leaves])
        else:
            expected, expected_finals = call(ours, leaves | {"input": leaves["input"][:length]})
            assert_close_trees((output[:length], *finals), (expected, expected_finals))


class TestZeroLengths:
    @by_layer
    @pytest.mark.parametrize("bidirectional", (False, True))
    def test_state_passes_through(self, layer, bidirectional):
        """h_n is hx where nothing ran, and the gradient goes straight to it; the other rows are as without that one."""
        ours, _, leaves = both(case_of(layer, num_layers=2, bidirectional=bidirectional))
        lengths = torch.tensor([2, 0, 1, 6, 3])
        results = outputs_and_gradients(ours, leaves, with_lengths(lengths))
        others = [0, 2, 3, 4]
        rest = {name: leaf[:, others] for name, leaf in leaves.items()}
        output, finals = with_lengths(lengths[others])(ours, rest)
        assert torch.equal(results["output"][:, 1], torch.zeros(6, output.shape[2], dtype=torch.float64))
        assert_close_trees(results["output"][:, others], output)
        names = ("final[0]", "final[1]") if layer == "LSTM" else ("final",)
        finals = finals if layer == "LSTM" else (finals,)
        for name, state, final in zip(names, ("hx", "cx"), finals, strict=False):
            assert torch.equal(results[name][:, 1], leaves[state][:, 1])
            assert_close_trees(results[name][:, others], final)
        assert (results["gradient of input"][:, 1] == 0).all()

    @by_layer
    def test_all_zero(self, layer):
        ours, _, leaves = both(case_of(layer, bidirectional=True))
        results = outputs_and_gradients(ours, leaves, with_lengths(torch.zeros(5, dtype=torch.long)))
        assert (results["output"] == 0).all()
        assert torch.equal(results["final[0]" if layer == "LSTM" else "final"], leaves["hx"])
        assert all((results[f"gradient of {name}"] == 0).all() for name, _ in ours.named_parameters())
        assert not (results["gradient of hx"] == 0).any()

    @by_layer
    def test_no_rows(self, layer):
        module = getattr(fastrnn, layer)(3, 5)
        output, _ = module(torch.ones(4, 0, 3), lengths=torch.zeros(0, dtype=torch.long))
        assert output.shape == (4, 0, 5)


class TestPaddingIsNeverRead:
    """What stands past a sequence's end, NaN even, changes no bit of any result or gradient."""

    @by_layer
    @pytest.mark.parametrize("bidirectional", (False, True))
    @pytest.mark.parametrize("batch_first", (False, True))
    @pytest.mark.parametrize("fill", (NAN, float("inf"), 1e300))
    def test_in_the_input(self, layer, bidirectional, batch_first, fill):
        case = case_of(layer, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
        ours, _, leaves = both(case)
        lengths = torch.tensor([2, 0, 1, 6, 3])
        expected = outputs_and_gradients(ours, leaves, with_lengths(lengths))
        ill = leaves | {"input": leaves["input"].masked_fill(padding(ours, lengths).unsqueeze(2), fill)}
        actual = outputs_and_gradients(ours, ill, with_lengths(lengths))
        for name, value in expected.items():
            assert torch.equal(actual[name], value), name
        assert actual["gradient of input"][padding(ours, lengths)].eq(0).all()

    @by_layer
    def test_in_the_input_of_a_second_derivative(self, layer):
        ours, _, leaves = both(case_of(layer, bidirectional=True))
        results = []
        for fill in (0.0, NAN):
            value = leaves["input"].masked_fill(padding(ours, LENGTHS).unsqueeze(2), fill).requires_grad_()
            wanted = [value, *ours.parameters()]
            first = torch.autograd.grad(ours(value, lengths=LENGTHS)[0].sin().sum(), wanted, create_graph=True)
            results.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))
        assert all(map(torch.equal, *results))

    @by_layer
    @pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
    def test_the_callers_input_stays_as_it_was(self, layer, dtype):
        module = getattr(fastrnn, layer)(3, 5, dtype=dtype)
        value = randn(6, 5, 3, dtype=dtype)
        before = value.clone()
        for lengths in (LENGTHS, torch.tensor([6, 5, 4, 3, 2])):
            module(value, lengths=lengths)
            assert torch.equal(value, before)

    @by_layer
    def test_in_the_upstream_gradient(self, layer):
        """A loss that is NaN at padded steps. Output is constant there."""
        ours, _, leaves = both(case_of(layer, num_layers=2, bidirectional=True))
        gradients = []
        for fill in (0.0, NAN):
            value = leaves["input"].clone().requires_grad_()
            output, _ = ours(value, lengths=LENGTHS)
            upstream = output.detach().cos().masked_fill(padding(ours, LENGTHS).unsqueeze(2), fill)
            gradients.append(torch.autograd.grad(output, [value, *ours.parameters()], upstream))
        assert all(map(torch.equal, *gradients))

    @by_layer
    def test_in_the_state_of_an_empty_row(self, layer):
        ours, _, leaves = both(case_of(layer, bidirectional=True))
        lengths = torch.tensor([2, 0, 1, 6, 3])
        ill = {name: leaf.clone() for name, leaf in leaves.items()}
        for name in ill.keys() - {"input"}:
            ill[name][:, 1] = NAN
        actual = outputs_and_gradients(ours, ill, with_lengths(lengths))
        assert actual["output"].isfinite().all()
        assert all(value.isfinite().all() for name, value in actual.items() if name.startswith("gradient"))


@pytest.mark.parametrize("layer", (*LAYERS, "JordanRNN"))
@pytest.mark.parametrize("form", (list, tuple, np.array, lambda values: [torch.tensor(v) for v in values]), ids=str)
def test_lengths_that_are_no_tensor(layer, form):
    options = {"output_size": 2, "recurrence": "hidden_to_hidden"} if layer == "JordanRNN" else {}
    module, value = getattr(fastrnn, layer)(3, 5, **options), torch.randn(6, 5, 3)
    expected, actual = module(value, lengths=LENGTHS), module(value, lengths=form(LENGTHS.tolist()))
    assert_same(flatten(expected), flatten(actual), 0.0)
    assert_same(flatten(module(value[:, 0], lengths=torch.tensor(4))), flatten(module(value[:, 0], lengths=4)), 0.0)


class TestRefusals:
    @by_layer
    @pytest.mark.parametrize("bad", (-1, 7, 2**40))
    def test_out_of_range(self, layer, bad):
        module, lengths = getattr(fastrnn, layer)(3, 5), LENGTHS.clone()
        lengths[2] = bad
        with pytest.raises(ValueError, match=rf"lengths must lie within 0\.\.6.*got {bad}"):
            module(torch.ones(6, 5, 3), lengths=lengths)

    @by_layer
    @pytest.mark.parametrize(
        ("lengths", "error", "words"),
        [
            ("26143", TypeError, "Tensor or a list, got str"),
            ([2, 6, [1, 4], 3, 3], TypeError, "Tensor or a list, got list"),
            ([2.0, 6.0, 1.0, 4.0, 3.0], TypeError, "float32"),
            (LENGTHS.float(), TypeError, "float32.*long"),
            (LENGTHS > 2, TypeError, r"bool.*mask\.sum\(dim\)"),
            (torch.ones(6, 5, dtype=torch.bool), TypeError, r"bool.*mask\.sum\(0\)"),
            (torch.ones(5, 6, dtype=torch.bool), TypeError, r"bool.*mask\.sum\(1\)"),
            (LENGTHS[:4], ValueError, r"\(5,\).*\(4,\)$"),
            (torch.ones(6, dtype=torch.int64), ValueError, r"\(5,\).*\(6,\).*number of steps.*set batch_first=True"),
            (LENGTHS.unsqueeze(1), ValueError, r"\(5, 1\)"),
            (LENGTHS[0], ValueError, r"\(\)"),
        ],
        ids=(
            *("text", "nested list", "list of floats", "float", "bool", "mask", "mask, batch first"),
            *("short", "as many as steps", "2-D", "scalar"),
        ),
    )
    def test_type_and_shape(self, layer, lengths, error, words):
        with pytest.raises(error, match=f"{layer}: lengths.*{words}"):
            getattr(fastrnn, layer)(3, 5)(torch.ones(6, 5, 3), lengths=lengths)

    @by_layer
    def test_as_many_as_steps_with_batch_first(self, layer):
        with pytest.raises(ValueError, match=r"number of steps.*set batch_first=False"):
            getattr(fastrnn, layer)(3, 5, batch_first=True)(torch.ones(6, 5, 3), lengths=torch.ones(5).long())

    @by_layer
    def test_unbatched_wants_a_scalar(self, layer):
        with pytest.raises(ValueError, match="lengths"):
            getattr(fastrnn, layer)(3, 5)(torch.ones(6, 3), lengths=torch.tensor([4]))

    @by_layer
    def test_beside_other_ways_to_say_it(self, layer):
        module = getattr(fastrnn, layer)(3, 5)
        with pytest.raises(ValueError, match="PackedSequence"):
            module(pack_padded_sequence(torch.ones(6, 5, 3), LENGTHS, enforce_sorted=False), lengths=LENGTHS)
        with pytest.raises(ValueError, match="nested"):
            module(jagged(LENGTHS), lengths=LENGTHS)

    @by_layer
    def test_nested_of_another_kind(self, layer):
        module = getattr(fastrnn, layer)(3, 5)
        strided = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
        with pytest.raises(ValueError, match=r"torch\.jagged"):
            module(strided)
        with pytest.raises(ValueError, match=r"T ragged, got its dimension 2 ragged.*transposed"):
            module(jagged(LENGTHS).transpose(1, 2))


def jagged(lengths, dtype=torch.float32):
    rows = [randn(int(length), 3, dtype=dtype) for length in lengths]
    return torch.nested.nested_tensor(rows, layout=torch.jagged)


class TestJagged:
    @by_layer
    @pytest.mark.parametrize("batch_first", (False, True))
    @pytest.mark.parametrize("has_hx", (False, True))
    def test_equals_padded(self, layer, batch_first, has_hx):
        """Forward, and backward to its values and the weights; its batch is in front, whatever batch_first says."""
        case = Case(layer, {"num_layers": 2, "bidirectional": True, "batch_first": True}, has_hx=has_hx, seq=6, batch=5)
        ours, _, leaves = both(case)
        nested = jagged(LENGTHS, torch.float64)
        leaves["input"] = torch.nested.to_padded_tensor(nested, 0.0)
        expected = outputs_and_gradients(ours, leaves, with_lengths(LENGTHS))

        ours.batch_first = batch_first
        values = nested.values().clone().requires_grad_()
        value = torch.nested.nested_tensor_from_jagged(values, nested.offsets())
        states = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items() if name != "input"}
        output, finals = ours(value, hx_of(states))
        assert output.layout == torch.jagged
        assert (
            output._get_max_seqlen() == 6
        )  # and not the sum of the lengths, to which torch pads when it knows no better
        assert torch.equal(output.offsets(), nested.offsets())
        padded_output = torch.nested.to_padded_tensor(output, 0.0)
        finals = finals if isinstance(finals, tuple) else (finals,)
        names = [name for name in expected if name.startswith(("output", "final"))]
        assert_close_trees((padded_output, *finals), [expected[name] for name in names])

        wanted = [values, *states.values(), *ours.parameters()]
        upstream = draw_upstream((padded_output, *finals))
        gradients = torch.autograd.grad((padded_output, *finals), wanted, upstream)
        expected = [value for name, value in expected.items() if name.startswith("gradient")]
        expected[0] = torch.cat([row[:length] for row, length in zip(expected[0], LENGTHS, strict=True)])
        assert_close_trees(gradients, expected)

    @by_layer
    def test_trains_through_other_nested_operations(self, layer):
        """Between a linear layer before and one after, all on nested tensors."""
        before, after = nn.Linear(3, 4), nn.Linear(5, 2)
        module = getattr(fastrnn, layer)(4, 5)
        output = after(module(before(jagged([3, 1, 5])))[0])
        assert [row.shape[0] for row in output.unbind()] == [3, 1, 5]
        output.values().square().sum().backward()
        parameters = [*before.parameters(), *module.parameters(), *after.parameters()]
        assert all(weight.grad.isfinite().all() for weight in parameters)
        assert before.weight.grad.any()

    @by_layer
    def test_with_an_empty_row(self, layer):
        module = getattr(fastrnn, layer)(3, 5, bidirectional=True)
        output, _ = module(jagged([3, 0, 5]))
        assert [row.shape[0] for row in output.unbind()] == [3, 0, 5]

    def test_with_holes(self):
        """Narrowed from a padded batch it keeps the padding between its sequences."""
        module, lengths = fastrnn.GRU(3, 5), torch.tensor([2, 4, 3])
        start = torch.zeros_like(lengths)
        holes = torch.nested.narrow(randn(3, 6, 3), dim=1, start=start, length=lengths, layout=torch.jagged)
        with pytest.raises(RuntimeError, match=r"GRU: .*holes.*input\.contiguous\(\)"):
            module(holes)
        output, _ = module(holes.contiguous())
        assert [row.shape[0] for row in output.unbind()] == lengths.tolist()
