"""torch.utils.flop_counter.FlopCounterMode: 2 * M * N * K for each product, forward and backward."""

import pytest
import torch
from cases import CELLS, KERNELS
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

import fastrnn
from fastrnn import reference

pytestmark = pytest.mark.thorough

T, B, I, H = 7, 3, 4, 6  # noqa: E741


def counted(function):
    counter = FlopCounterMode(display=False)
    with counter:
        result = function()
    return counter.get_total_flops(), result


def passes(layer, value, *arguments, **how):
    """Of forward, and of backward."""
    forward, output = counted(lambda: layer(value, *arguments, **how)[0])
    backward, _ = counted(lambda: output.sum().backward())
    return forward, backward


class TestByHand:
    def test_lstm(self):
        forward, backward = passes(fastrnn.LSTM(I, H), torch.randn(T, B, I))
        input_product = 2 * 21 * 24 * 4  # T * B rows, four gates of H, I features
        recurrent_product = 2 * 21 * 24 * 6
        assert forward == input_product + recurrent_product == 10_080
        # dh; both weights' gradients; the input needs none.
        assert backward == recurrent_product + input_product + recurrent_product == 16_128

    def test_gru_whose_input_needs_a_gradient(self):
        forward, backward = passes(fastrnn.GRU(I, H), torch.randn(T, B, I, requires_grad=True))
        assert forward == 2 * 21 * 18 * (4 + 6) == 7_560
        assert backward == 2 * 7_560

    def test_stacked_in_both_directions(self):
        layer = fastrnn.RNN(I, H, 2, bidirectional=True)
        forward, backward = passes(layer, torch.randn(T, B, I))
        lowest, upper, recurrent = 2 * (2 * 21 * 6 * 4), 2 * (2 * 21 * 6 * 12), 4 * (2 * 21 * 6 * 6)
        assert forward == lowest + upper + recurrent == 14_112
        # The upper layer hands its input's gradient down; the lowest has nobody to hand it to.
        assert backward == upper + recurrent + lowest + upper + recurrent == 26_208

    def test_projection(self):
        forward, backward = passes(fastrnn.LSTM(I, H, proj_size=2), torch.randn(T, B, I))
        input_product, recurrent_product, projection = 2 * 21 * 24 * 4, 2 * 21 * 24 * 2, 2 * 21 * 2 * 6
        assert forward == input_product + recurrent_product + projection == 6_552
        assert backward == 2 * (recurrent_product + projection) + input_product == 9_072

    def test_frozen_weights(self):
        layer = fastrnn.LSTM(I, H).requires_grad_(False)
        _, backward = passes(layer, torch.randn(T, B, I, requires_grad=True))
        assert backward == 2 * 21 * 24 * (4 + 6) == 10_080  # dX and dh

    def test_packed(self):
        sequences = [torch.randn(length, I) for length in (7, 4, 1)]  # 12 rows
        assert counted(lambda: fastrnn.LSTM(I, H)(pack_sequence(sequences)))[0] == 2 * 12 * 24 * (4 + 6) == 5_760

    @pytest.mark.parametrize(("name", "gates"), list(zip(CELLS, (1, 4, 3), strict=True)))
    def test_cells(self, name, gates):
        cell = getattr(fastrnn, name)(I, H)
        with torch.no_grad():
            assert counted(lambda: cell(torch.randn(B, I)))[0] == 2 * 3 * gates * 6 * (4 + 6)
        forward, backward = passes(lambda value: (torch.as_tensor(cell(value)[0]),), torch.randn(B, I))
        assert (forward, backward) == (2 * 3 * gates * 6 * 10, 2 * 3 * gates * 6 * (10 + 6))

    @pytest.mark.parametrize("batch_first", (False, True))
    def test_of_lengths_the_valid_steps_alone(self, batch_first):
        layer, lengths = fastrnn.GRU(I, H, batch_first=batch_first), torch.tensor([4, 7, 1])
        value = torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)
        padded, ragged = passes(layer, value), passes(layer, value, lengths=lengths)
        assert ragged == tuple(count * 12 // 21 for count in padded)
        sequences = [torch.randn(int(length), I) for length in lengths]
        assert ragged[0] == counted(lambda: layer(pack_sequence(sequences, enforce_sorted=False)))[0]
        jagged = torch.nested.nested_tensor(sequences, layout=torch.jagged)
        assert ragged[0] == counted(lambda: layer(jagged))[0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bidirectional", (False, True))
@pytest.mark.parametrize("input_grad", (False, True))
@pytest.mark.parametrize("option", (None, "layer_norm", "tbptt_steps"))
def test_as_torch_counts_its_own_ops(kernel, bidirectional, input_grad, option):
    """Against the same recurrence of torch ops, step by step; with states that are trained, for whose gradients the
    first step, too, multiplies."""
    name, more = KERNELS[kernel]
    options = {None: {}, "layer_norm": {"layer_norm": True}, "tbptt_steps": {"tbptt_steps": 100}}[option]
    layer = getattr(fastrnn, name)(I, H, bidirectional=bidirectional, **more, **options)
    sizes = [layer.proj_size or H, H][: 2 if name == "LSTM" else 1]
    hx = tuple(torch.randn(2 if bidirectional else 1, B, size, requires_grad=True) for size in sizes)
    value = torch.randn(T, B, I, requires_grad=input_grad)
    weights = list(layer.parameters())
    actual = passes(layer, value, hx if len(hx) > 1 else hx[0])
    cell = layer.mode.lower()
    if option == "layer_norm":
        from fastrnn._call.modifiers import per_unit_weights_joined

        cell += "_norm"
        weights = per_unit_weights_joined(cell, layer._flat_weights, 2 if bidirectional else 1)

    def composite(value, *hx):
        return reference.layers(cell, value, hx, weights, bidirectional, None)

    assert actual == passes(composite, value, *hx)


@pytest.mark.filterwarnings("ignore:Using .torch.compile")
def test_compiled():
    """Aten's counterpart of a graph, whose ops are the public ones."""
    torch._dynamo.reset()
    layer, value = fastrnn.LSTM(I, H), torch.randn(T, B, I)
    assert passes(torch.compile(layer, backend="aot_eager"), value) == passes(layer, value)
    torch._dynamo.reset()


def test_by_module():
    model = nn.Sequential(fastrnn.GRU(I, H))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.randn(T, B, I))
    assert sum(counter.get_flop_counts()["Sequential.0"].values()) == 7_560
