"""Each sample's gradients through torch's ExpandedWeights (`torch.nn.utils._per_sample_grad`).

The measure is a loop over the samples.
"""

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_sequence

import fastrnn

pytestmark = pytest.mark.thorough

STEPS, BATCH = 4, 3


def build(kernel, **options):
    layer, more = KERNELS[kernel]
    return getattr(fastrnn, layer)(2, 5, 2, **more | options, dtype=torch.float64)


def states_of(layer, batch=BATCH):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = (layer.proj_size or layer.hidden_size, layer.hidden_size)[: 2 if layer.mode == "LSTM" else 1]
    states = tuple(torch.randn(rows, batch, size, dtype=torch.float64) for size in sizes)
    return states if len(states) > 1 else states[0]


def flat(results):
    return (
        [t for r in results for t in (r if isinstance(r, tuple) else (r,))] if isinstance(results, tuple) else [results]
    )


def loss_of(results):
    """In which every output has its own weight."""
    return sum((result.sin() * (1 + index)).sum() for index, result in enumerate(flat(results)))


def looped(module, calls):
    """Gradients of the parameters, one call for each sample, stacked."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    grads = [torch.autograd.grad(loss_of(call()), parameters) for call in calls]
    return dict(zip(names, map(torch.stack, zip(*grads, strict=True)), strict=True))


def collected(module):
    return {name: parameter.grad_sample for name, parameter in module.named_parameters()}


def assert_same(actual, expected, may_die=False):
    """Where relus may die, gradients of 0 prove nothing."""
    assert actual.keys() == expected.keys()
    for name in expected:
        assert expected[name].any() or may_die, name
        torch.testing.assert_close(actual[name], expected[name])


class TestLayers:
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("bidirectional", (False, True))
    @pytest.mark.parametrize("batch_first", (False, True))
    def test_equal_to_a_loop(self, kernel, bidirectional, batch_first):
        layer, dim = build(kernel, bidirectional=bidirectional, batch_first=batch_first), 0 if batch_first else 1
        value = torch.randn(STEPS, BATCH, 2, dtype=torch.float64).movedim(1, dim).requires_grad_()
        hx = states_of(layer)
        run = call_for_per_sample_grads(layer, batch_size=BATCH, batch_first=batch_first)
        loss_of(run(value, hx)).backward()

        def alone(sample):
            own = tuple(state[:, sample, None] for state in hx) if isinstance(hx, tuple) else hx[:, sample, None]
            return layer(value.narrow(dim, sample, 1), own)

        expected = looped(layer, [lambda b=b: alone(b) for b in range(BATCH)])
        assert_same(collected(layer), expected, may_die=kernel == "rnn_relu")
        torch.testing.assert_close(value.grad, *torch.autograd.grad(loss_of(layer(value, hx)), value))
        assert all(parameter.grad is None for parameter in layer.parameters())

    @pytest.mark.parametrize(
        "options", ({"peephole": True}, {"coupled": True}, {"layer_norm": True}, {"state_grad_clip": 0.1}), ids=str
    )
    def test_of_options(self, options):
        layer = build("lstm", **options)
        value = torch.randn(STEPS, BATCH, 2, dtype=torch.float64)
        loss_of(call_for_per_sample_grads(layer, batch_first=False)(value, return_states=True)).backward()
        calls = [lambda b=b: layer(value[:, b, None], return_states=True) for b in range(BATCH)]
        assert_same(collected(layer), looped(layer, calls))

    def test_some_frozen(self):
        layer = build("gru")
        layer.weight_ih_l0.requires_grad_(False)
        value = torch.randn(STEPS, BATCH, 2, dtype=torch.float64)
        loss_of(call_for_per_sample_grads(layer, batch_first=False)(value)).backward()
        assert not hasattr(layer.weight_ih_l0, "grad_sample")
        assert layer.weight_hh_l0.grad_sample.shape == (BATCH, *layer.weight_hh_l0.shape)

    def test_of_a_mean(self):
        layer, value = build("gru"), torch.randn(STEPS, BATCH, 2, dtype=torch.float64)
        run = call_for_per_sample_grads(layer, batch_first=False, loss_reduction="mean")
        (loss_of(run(value)) / BATCH).backward()
        assert_same(collected(layer), looped(layer, [lambda b=b: layer(value[:, b, None]) for b in range(BATCH)]))

    def test_under_autocast(self):
        layer, value = fastrnn.GRU(2, 5), torch.randn(STEPS, BATCH, 2)
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = call_for_per_sample_grads(layer, batch_first=False)(value)
        assert output.dtype == torch.bfloat16
        output.float().sum().backward()
        actual = collected(layer)
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = layer(value)
        output.float().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(actual[name].sum(0), parameter.grad)

    @pytest.mark.parametrize("name", LAYERS)
    def test_as_torchs(self, name):
        """Where torch.nn's own layers bear it."""
        layer = getattr(fastrnn, name)(2, 5, batch_first=True)
        theirs = fastrnn.to_torch(getattr(fastrnn, name)(2, 5, batch_first=True))
        theirs.load_state_dict(layer.state_dict())
        value = torch.randn(BATCH, STEPS, 2)
        call_for_per_sample_grads(layer)(value)[0].sum().backward()
        if name == "LSTM":
            with pytest.raises(RuntimeError, match="cannot handle function"):
                call_for_per_sample_grads(theirs)(value)
            return
        call_for_per_sample_grads(theirs)(value)[0].sum().backward()
        for mine, other in zip(layer.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad_sample, other.grad_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CELLS)
def test_cells_in_a_loop(name):
    """A cell that runs many times gets the sum of its calls'."""
    cell = getattr(fastrnn, name)(2, 5, dtype=torch.float64)
    value = torch.randn(STEPS, BATCH, 2, dtype=torch.float64)

    def run(step, value):
        hx = None
        for x in value:
            hx = step(x, hx)
        return hx

    loss_of(run(call_for_per_sample_grads(cell, batch_size=BATCH), value)).backward()
    assert_same(collected(cell), looped(cell, [lambda b=b: run(cell, value[:, b, None]) for b in range(BATCH)]))


class TestRefusals:
    def expanded(self, layer, **arguments):
        return call_for_per_sample_grads(layer, **{"batch_size": BATCH, "batch_first": False} | arguments)

    def test_what_has_no_batch_of_its_own(self):
        run, value = self.expanded(build("gru")), torch.randn(STEPS, BATCH, 2, dtype=torch.float64)
        with pytest.raises(NotImplementedError, match=r"GRU: gradients of each sample .* without lengths"):
            run(value, lengths=[4, 3, 2])
        with pytest.raises(NotImplementedError, match="GRU: gradients of each sample of a PackedSequence"):
            run(pack_sequence(list(value)))

    def test_no_batch(self):
        value = torch.randn(STEPS, 2, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"GRU: .* need a batch, a 3D input, got 2D"):
            self.expanded(build("gru"))(value)
        with pytest.raises(ValueError, match=r"GRUCell: .* need a batch, a 2D input, got 1D"):
            self.expanded(fastrnn.GRUCell(2, 5, dtype=torch.float64))(value[0])

    def test_another_batch(self):
        with pytest.raises(RuntimeError, match=r"GRU: the input has a batch of 3, .* took 4 .* batch_first=False"):
            call_for_per_sample_grads(build("gru"))(torch.randn(STEPS, BATCH, 2, dtype=torch.float64))

    @pytest.mark.parametrize("name", ("dropout", "zoneout", "weight_dropout", "variational_dropout"))
    def test_masks(self, name):
        layer, value = build("gru", **{name: 0.5}), torch.randn(STEPS, BATCH, 2, dtype=torch.float64)
        with pytest.raises(NotImplementedError, match=f"GRU: .*with {name} in training mode"):
            self.expanded(layer)(value)
        layer.eval()
        loss_of(self.expanded(layer)(value)).backward()
        assert_same(collected(layer), looped(layer, [lambda b=b: layer(value[:, b, None]) for b in range(BATCH)]))

    def test_of_the_call_itself(self):
        with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size"):
            self.expanded(build("gru"))(torch.randn(STEPS, BATCH, 3, dtype=torch.float64))
