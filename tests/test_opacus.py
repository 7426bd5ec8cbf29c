"""Per-sample gradients as opacus collects them: those of torch.func.vmap, for layers and for cells in a loop."""

import functools
import warnings

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS
from torch import nn
from torch.func import functional_call, grad, vmap

import fastrnn

pytest.importorskip("opacus", reason="pip install opacus")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import GradSampleModule, PrivacyEngine
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.validators import ModuleValidator

    import fastrnn.opacus

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore:Full backward hook is firing")]

STEPS, BATCH = 4, 3
by_reduction = pytest.mark.parametrize("reduction", ("mean", "sum"))


class Layers(nn.Module):
    """From a sequence and its state to a loss for each sample, in which all that a layer returns has a part."""

    def __init__(self, kernel="gru", **options):
        super().__init__()
        layer, more = KERNELS[kernel]
        options = {"batch_first": True} | more | options
        self.layer = getattr(fastrnn, layer)(2, 5, 2, **options)
        size = options.get("proj_size", 5) * (2 if self.layer.bidirectional else 1)
        self.head = nn.Linear(size, 3)

    def forward(self, value, hx=None):
        output, states = self.layer(value.movedim(0, 0 if self.layer.batch_first else 1), hx)
        output = output if self.layer.batch_first else output.movedim(1, 0)
        states = states if isinstance(states, tuple) else (states,)
        return self.head(output).sin().mean((1, 2)) + sum(state.sin().mean((0, 2)) for state in states)


class Loop(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.cell = getattr(fastrnn, name)(2, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, value):
        hx = None
        for step in range(value.shape[1]):
            hx = self.cell(value[:, step], hx)
        states = hx if isinstance(hx, tuple) else (hx,)
        return sum(self.head(state).sin().mean(1) for state in states)


def by_vmap(model, *given):
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters, *one):
        return functional_call(model, parameters, tuple(value[None] for value in one)).sum()

    return vmap(grad(loss), in_dims=(None, *(0,) * len(given)))(parameters, *given)


def assert_equal_to_vmap(model, reduction="mean", **others):
    value = torch.randn(BATCH, STEPS, 2, dtype=model.head.weight.dtype)
    expected = by_vmap(model, value)
    private = GradSampleModule(model, loss_reduction=reduction, **others)
    getattr(private(value), reduction)().backward()
    may_die = getattr(getattr(model, "layer", None), "mode", "") == "RNN_RELU"  # then gradients of 0 prove nothing
    for name, parameter in model.named_parameters():
        assert expected[name].any() or may_die, name
        torch.testing.assert_close(parameter.grad_sample, expected[name])
    return private


@by_reduction
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bidirectional", (False, True))
def test_layers(kernel, bidirectional, reduction):
    assert_equal_to_vmap(Layers(kernel, bidirectional=bidirectional).double(), reduction)


@by_reduction
@pytest.mark.parametrize("name", CELLS)
def test_cells_in_a_loop(name, reduction):
    """opacus' own hooks would leave out hx, and the gradient of c."""
    assert_equal_to_vmap(Loop(name).double(), reduction)


@pytest.mark.parametrize("name", ("LSTM", "GRU", "LSTMCell"))
def test_converted(name):
    model = Loop(name).double() if name in CELLS else Layers(name.lower()).double()
    assert_equal_to_vmap(fastrnn.convert(fastrnn.to_torch(model)))


def test_of_options():
    assert_equal_to_vmap(Layers("lstm", peephole=True, layer_norm=True).double())


def test_time_first():
    assert_equal_to_vmap(Layers(batch_first=False).double())


def test_states_that_are_given():
    """As a tuple, which opacus' own hooks do not take."""
    model = Layers("lstm").double()
    value, h, c = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((BATCH, STEPS, 2), (2, BATCH, 5), (2, BATCH, 5))
    )

    class WithStates(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, value, h, c):
            return self.inner(value, (h.movedim(0, 1).contiguous(), c.movedim(0, 1).contiguous()))

    outer = WithStates()
    given = value, h.movedim(1, 0), c.movedim(1, 0)
    expected = by_vmap(outer, *given)
    GradSampleModule(outer)(*given).mean().backward()
    for name, parameter in outer.named_parameters():
        torch.testing.assert_close(parameter.grad_sample, expected[name])


def test_some_frozen():
    model = Layers("lstm").double()
    model.layer.weight_ih_l0.requires_grad_(False)
    value = torch.randn(BATCH, STEPS, 2, dtype=torch.float64)
    expected = by_vmap(model, value)
    GradSampleModule(model)(value).mean().backward()
    assert not hasattr(model.layer.weight_ih_l0, "grad_sample")
    torch.testing.assert_close(model.layer.weight_hh_l0.grad_sample, expected["layer.weight_hh_l0"])


def test_empty_batch():
    model = Layers()
    GradSampleModule(model)(torch.randn(0, STEPS, 2)).sum().backward()
    assert model.layer.weight_ih_l0.grad_sample.shape == (0, *model.layer.weight_ih_l0.shape)


def test_removed():
    """A model is what it was once opacus lets go of it; in eval mode nothing is collected."""
    model, value = Layers().double(), torch.randn(BATCH, STEPS, 2, dtype=torch.float64)
    expected = model(value)
    private = assert_equal_to_vmap(model)
    with torch.no_grad():
        private(value)
    private.eval()(value)
    assert model.layer.activations == []
    private.train()
    private.to_standard_module()
    model.zero_grad()
    actual = model(value)
    torch.testing.assert_close(actual, expected)
    actual.sum().backward()
    assert model.layer.weight_ih_l0.grad.any()
    assert not hasattr(model.layer.weight_ih_l0, "grad_sample")


def test_training():
    """A step of PrivacyEngine's: gradients clipped, added, without noise."""
    model = Layers("lstm").double()
    data = torch.utils.data.TensorDataset(torch.randn(BATCH, STEPS, 2, dtype=torch.float64))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    each = by_vmap(model, data.tensors[0])
    norms = sum(part.flatten(1).square().sum(1) for part in each.values()).sqrt()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        private, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), 1.0),
            data_loader=torch.utils.data.DataLoader(data, batch_size=BATCH),
            noise_multiplier=0.0,
            max_grad_norm=norms.mean().item(),
            poisson_sampling=False,
        )
    (value,) = next(iter(loader))
    private(value).mean().backward()
    optimizer.step()
    shares = (norms.mean() / (norms + 1e-6)).clamp(max=1.0)
    for name, parameter in model.named_parameters():
        step = torch.einsum("b,b...->...", shares, each[name]) / BATCH
        torch.testing.assert_close(parameter, before[name] - step)


def test_expanded_weights():
    """Its mode "ew"."""
    model, value = Layers("lstm"), torch.randn(BATCH, STEPS, 2)
    expected = by_vmap(model, value)
    from opacus.grad_sample import GradSampleModuleExpandedWeights

    GradSampleModuleExpandedWeights(model)(value).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad_sample, expected[name], rtol=1e-4, atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize("name", LAYERS)
    def test_masks(self, name):
        model = nn.Sequential(getattr(fastrnn, name)(2, 5, 2, dropout=0.5))
        (error,) = ModuleValidator.validate(model)
        assert f"{name}, a fastrnn module: no gradients of each sample with dropout" in str(error)
        with pytest.raises(NotImplementedError, match=f"{name}, .* with opacus: no .* with dropout"):
            GradSampleModule(model)

    def test_jordan(self):
        model = nn.Sequential(fastrnn.JordanRNN(2, 5, 3))
        (error,) = ModuleValidator.validate(model)
        assert "JordanRNN, a fastrnn module: no gradients of each sample" in str(error)
        with pytest.raises(NotImplementedError, match="JordanRNN, a fastrnn module, with opacus"):
            GradSampleModule(model)

    def test_computed_weights(self):
        model = Layers()
        nn.utils.parametrizations.weight_norm(model.layer, "weight_hh_l0")
        with pytest.raises(NotImplementedError, match="weight_hh_l0 is no parameter but computed"):
            GradSampleModule(model)

    @pytest.mark.parametrize(
        "collect", (functools.partial(GradSampleModule, force_functorch=True), GradSampleModuleFastGradientClipping)
    )
    def test_its_other_ways(self, collect):
        with pytest.raises(NotImplementedError, match=r"GRU, a fastrnn module, with opacus: .*'hooks'"):
            collect(Layers())

    def test_lengths(self):
        layer = fastrnn.GRU(2, 5, batch_first=True)
        private = GradSampleModule(layer)
        with pytest.raises(NotImplementedError, match=r"GRU: gradients of each sample .* without lengths"):
            private(torch.randn(BATCH, STEPS, 2), lengths=[4, 3, 2])


def test_valid():
    for model in (Layers("lstm"), Loop("GRUCell"), fastrnn.convert(nn.Sequential(nn.LSTM(2, 3)))):
        assert ModuleValidator.validate(model) == []
