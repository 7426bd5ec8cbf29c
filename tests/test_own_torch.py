"""Layers of one's own as modules of torch's, and under torch's transforms and tools."""

import copy
import inspect
import pickle

import pytest
import torch
from own_cells import (
    GRU,
    KINKED,
    LSTM,
    SRU,
    Highway,
    IndRNN,
    Peephole,
    PerUnit,
    Readout,
    by_cell,
    by_quick_cell,
    formula,
    on_states,
    randn,
    run_python,
    states_of,
    tensors,
)
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

import fastrnn
from fastrnn.modules.own import OwnLayer, OwnStep

pytestmark = [pytest.mark.usefixtures("kept_cells")]
thorough = pytest.mark.thorough

F64 = {"dtype": torch.float64}


def assert_equal(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance or {"rtol": 1e-8, "atol": 1e-9})


def call_of(layer, steps=4, batch=3):
    """The layer as a function of input, states and weights, and drawn arguments of it."""
    names = [name for name, _ in layer.named_parameters()]
    count = len(layer._own.graph.states)

    def function(value, *rest):
        hx, weights = rest[:count], dict(zip(names, rest[count:], strict=True))
        return tuple(tensors(torch.func.functional_call(layer, weights, (value, hx if count > 1 else hx[0]))))

    leaves = [randn(steps, batch, layer.input_size), *tensors(states_of(layer, batch))]
    return function, [*leaves, *[parameter.detach().clone() for parameter in layer.parameters()]]


def by_formula(kind, function, *arguments):
    with formula(kind):
        return function(*arguments)


class TestModules:
    def test_weights(self):
        layer = PerUnit(3, 5, num_layers=2, bidirectional=True)
        shapes = {name: tuple(weight.shape) for name, weight in layer.state_dict().items()}
        endings = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
        plain = {"weight_hh": (5, 5), "bias_ih": (5,), "bias_hh": (5,), "gain": (5,), "shift": (5,)}
        expected = {"weight_ih" + end: (5, 3 if end.startswith("_l0") else 10) for end in endings}
        expected |= {name + end: shape for name, shape in plain.items() for end in endings}
        assert shapes == expected
        assert set(PerUnit.Cell(3, 5).state_dict()) == {"weight_ih", *plain}
        assert layer.gain_l1.eq(1).all()
        assert layer.shift_l0.eq(0).all()
        assert layer.weight_hh_l0.abs().max() <= 5**-0.5

    def test_weights_of_other_recurrences(self):
        def shapes(layer):
            return [(name, tuple(weight.shape)) for name, weight in layer.named_parameters()]

        assert shapes(IndRNN(3, 5)) == [("weight_ih_l0", (5, 3)), ("weight_hh_l0", (1, 5)), ("bias_ih_l0", (5,))]
        assert shapes(Highway(3, 5, bias=False)) == [("weight_ih_l0", (15, 3)), ("weight_hh_l0", (10, 5))]
        assert shapes(Highway(5, 5, bias=False)) == [("weight_ih_l0", (10, 5)), ("weight_hh_l0", (10, 5))]
        assert [name for name, _ in shapes(SRU(3, 5))] == ["weight_ih_l0", "bias_ih_l0", "v_f_l0", "v_r_l0"]

    @by_cell
    def test_state_dict_makes_the_round_trip(self, kind):
        layer, other = (kind(3, 5, num_layers=2, bidirectional=True, **F64) for _ in range(2))
        missing, unexpected = other.load_state_dict(layer.state_dict())
        assert not missing
        assert not unexpected
        value = randn(4, 2, 3)
        assert_equal(tensors(other(value)), tensors(layer(value)))

    def test_init_fills_every_parameter(self):
        seen = []
        layer = Peephole(3, 5, bidirectional=True, init=lambda name, weight: (seen.append(name), weight.fill_(0.5)))
        assert seen == [name for name, _ in layer.named_parameters()]
        assert all(weight.eq(0.5).all() for weight in layer.parameters())
        step = Peephole.Cell(3, 5, init=lambda name, weight: weight.fill_(0.25))
        assert all(weight.eq(0.25).all() for weight in step.parameters())

    def test_what_a_class_says(self):
        assert (LSTM.__name__, LSTM.__qualname__, LSTM.__module__) == ("LSTM", "LSTM", "own_cells")
        assert LSTM.__doc__ == LSTM.Cell.__doc__ == "The LSTM of torch.nn."
        assert LSTM.Cell.__qualname__ == "LSTM.Cell"
        assert issubclass(LSTM, (OwnLayer, nn.RNNBase))
        assert issubclass(LSTM.Cell, (OwnStep, nn.RNNCellBase))
        assert repr(LSTM(3, 5, num_layers=2, zoneout=0.1)) == "LSTM(3, 5, num_layers=2, zoneout=0.1)"
        assert repr(LSTM.Cell(3, 5, bias=False)) == "Cell(3, 5, bias=False)"
        assert "struct" in LSTM.source()
        for kind in (LSTM, LSTM.Cell):
            names = list(inspect.signature(kind).parameters)
            assert names[:2] == ["input_size", "hidden_size"]
            assert "kwargs" not in names

    @by_quick_cell
    def test_copies(self, kind):
        layer, step = kind(3, 5, **F64), kind.Cell(3, 5, **F64)
        value = randn(4, 2, 3)
        for copied in (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))):
            for module, given in ((layer, value), (step, value[0])):
                twin = copied(module)
                assert type(twin) is type(module)
                assert twin is not module
                assert_equal(tensors(twin(given)), tensors(module(given)))
                with torch.no_grad():
                    next(twin.parameters()).zero_()
                assert next(module.parameters()).abs().max() > 0

    def test_pickles_find_the_class_in_another_process(self, tmp_path):
        layer, value = PerUnit(3, 5), torch.randn(4, 2, 3)
        torch.save((layer, value, layer(value)[0]), tmp_path / "layer.pt")
        code = "import torch; m, x, y = torch.load('layer.pt', weights_only=False); assert torch.equal(m(x)[0], y)"
        run_python(code, tmp_path)

    def test_subclass(self):
        class Scaled(LSTM):
            def __init__(self, *sizes, scale):
                super().__init__(*sizes, **F64)
                self.scale = scale

            def forward(self, input, hx=None):
                output, hy = super().forward(input, hx)
                return output * self.scale, hy

        layer, plain = Scaled(3, 5, scale=3.0), LSTM(3, 5, **F64)
        plain.load_state_dict(layer.state_dict())
        value = randn(4, 2, 3)
        assert_equal([layer(value)[0]], [3 * plain(value)[0]])

    def test_options_are_changed_together(self):
        layer = GRU(3, 5)
        with pytest.raises(AttributeError, match=r"GRU: zoneout is one of the layer's options"):
            layer.zoneout = 0.3
        with pytest.raises(AttributeError, match=r"GRU: bias is fixed at construction"):
            layer.bias = False
        layer.options = fastrnn.Options(zoneout=0.3)
        assert "zoneout=0.3" in repr(layer)

    @pytest.mark.parametrize(
        ("error", "arguments"),
        [
            (TypeError, {"hidden_size": 2.0}),
            (ValueError, {"hidden_size": 0}),
            (ValueError, {"num_layers": 0}),
            (ValueError, {"dropout": 2.0}),
            (TypeError, {"bidirectional": 1}),
            (TypeError, {"proj_size": 3}),
            (TypeError, {"nonlinearity": "tanh"}),
        ],
        ids=str,
    )
    def test_refused_at_construction(self, error, arguments):
        with pytest.raises(error):
            GRU(3, **{"hidden_size": 5} | arguments)

    def test_refused_at_a_call(self):
        layer, value = LSTM(3, 5), torch.randn(4, 2, 3)
        zeros = torch.zeros(1, 2, 5)
        with pytest.raises(RuntimeError, match=r"LSTM: input.size\(-1\) must be equal to input_size"):
            layer(value[..., :2])
        with pytest.raises(RuntimeError, match=r"LSTM: hx must be a tuple \(h, c\), got a Tensor"):
            layer(value, zeros)
        with pytest.raises(RuntimeError, match=r"LSTM: hx must be two hidden states \(h, c\), got 3"):
            layer(value, (zeros, zeros, zeros))
        with pytest.raises(AttributeError, match=r"GRU: hx must be a Tensor, got tuple of \(Tensor, Tensor\)$"):
            GRU(3, 5)(value, (zeros, zeros))
        with pytest.raises(RuntimeError, match=r"LSTM: expected hx size \(1, 2, 5\)"):
            layer(value, (zeros[:, :1], zeros))
        with pytest.raises(TypeError, match=r"LSTM.Cell: hx must be a tuple \(h, c\), got a Tensor"):
            LSTM.Cell(3, 5)(value[0], zeros[0])

    @by_quick_cell
    def test_meta(self, kind):
        layer = kind(3, 5, num_layers=2, device="meta")
        output, hy = layer(torch.empty(4, 2, 3, device="meta"))
        assert output.is_meta
        assert output.shape == (4, 2, 5)
        assert tensors(hy)[0].shape == (2, 2, 5)
        loaded = layer.to_empty(device="cpu")
        loaded.reset_parameters()
        assert loaded(torch.randn(4, 2, 3))[0].isfinite().all()

    @thorough
    @by_cell
    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
    def test_half(self, kind, dtype):
        """As float32 computes with the rounded weights; so under autocast."""
        layer = kind(3, 7, num_layers=2).to(dtype)
        wide = copy.deepcopy(layer).float()
        value = torch.randn(5, 2, 3).to(dtype)
        output, hy = layer(value)
        assert output.dtype == dtype
        assert all(state.dtype == dtype for state in tensors(hy))
        bound = {"rtol": 0.02, "atol": 0.02}
        assert_equal([output.float()], [wide(value.float())[0]], **bound)
        output.float().sum().backward()
        assert all(parameter.grad.dtype == dtype for parameter in layer.parameters())
        with torch.autocast("cpu", dtype):
            autocast = wide(value.float())[0]
        assert autocast.dtype == dtype
        assert_equal([autocast.float()], [wide(value.float())[0]], **bound)

    def test_pack_weights(self):
        layer, value = GRU(3, 40), torch.randn(4, 2, 3)
        with torch.no_grad():
            expected = layer(value)[0]
            layer.pack_weights()
            assert torch.equal(layer(value)[0], expected)
            assert fastrnn.explain(layer, value).rows[0].weights == "packed ahead"
        for kind, reason in ((IndRNN, "no matrix of recurrent weights"), (PerUnit, "weights of single units")):
            for module in (kind(3, 5), kind.Cell(3, 5)):
                with pytest.warns(UserWarning, match=f"has no effect: .*({reason}|whose recurrent weights)"):
                    module.pack_weights()

    @by_quick_cell
    def test_stream(self, kind):
        layer = kind(3, 5, num_layers=2, **F64)
        value = randn(7, 2, 3)
        stream = fastrnn.Stream(layer)
        pieces = [stream(value[:3]), stream.step(value[3])[None], stream(value[4:])]
        expected, final = layer(value)
        assert_equal([torch.cat(pieces), *tensors(stream.state)], [expected, *tensors(final)])
        stream.reset()
        assert_equal([stream(value[:3])], [expected[:3]])

    @by_quick_cell
    def test_explain(self, kind):
        layer, value = kind(3, 5, num_layers=2), torch.randn(4, 2, 3)
        rows = fastrnn.explain(layer, value).rows
        assert [row.pass_ for row in rows] == ["forward", "backward"] * 2
        assert all(row.path.startswith("fused") and row.isa for row in rows)
        step = fastrnn.explain(kind.Cell(3, 5), value[0]).rows
        assert all(row.path.startswith("fused") for row in step)

    def test_models_are_turned_back_without_them(self):
        """They have no likes in torch.nn."""
        model = nn.Sequential(nn.Linear(3, 3), GRU(3, 5))
        assert type(fastrnn.convert(model)[1]) is GRU
        with pytest.raises(ValueError, match=r"to_torch: 1 is GRU\(3, 5\), and torch.nn has nothing like it"):
            fastrnn.to_torch(model)

    def test_traced_by_fx(self):
        class Model(nn.Module):
            def __init__(self, kind):
                super().__init__()
                self.rnn, self.step = kind(3, 5, **F64), kind.Cell(5, 5, **F64)

            def forward(self, input):
                output, hy, states = self.rnn(input, return_states=True)
                return output, hy, states, self.step(output[0])

        for kind in (LSTM, GRU, Readout, SRU):
            model, value = Model(kind), randn(4, 2, 3)
            assert_equal(tensors(torch.fx.symbolic_trace(model)(value)), tensors(model(value)))

    def test_neither_scripted_nor_quantized(self):
        with pytest.raises(NotImplementedError, match="GRU"):
            torch.jit.script(GRU(3, 5))


class TestDerivatives:
    @thorough
    @by_cell
    def test_second_order(self, kind):
        if kind in KINKED:
            torch.manual_seed(0)  # a finite difference across a kink is wrong, whatever we do
        function, arguments = call_of(kind(2, 3, **F64), 2, 2)
        assert torch.autograd.gradgradcheck(function, [leaf.requires_grad_() for leaf in arguments], fast_mode=True)

    @by_quick_cell
    def test_forward_mode(self, kind):
        function, arguments = call_of(kind(3, 5, num_layers=2, **F64))
        tangents = [torch.randn_like(leaf) for leaf in arguments]
        with forward_ad.dual_level():
            duals = function(*map(forward_ad.make_dual, arguments, tangents))
            ours = [forward_ad.unpack_dual(dual).tangent for dual in duals]
        leaves = tuple(leaf.clone().requires_grad_() for leaf in arguments)
        _, theirs = torch.autograd.functional.jvp(function, leaves, tuple(tangents))
        assert_equal(ours, theirs)

    @thorough
    @by_cell
    def test_transforms(self, kind):
        """torch.func's vjp, vmap, jacrev and their compositions, against the formula."""
        function, arguments = call_of(kind(2, 3, num_layers=2, **F64), 2, 2)

        def loss(*leaves):
            return sum(result.sin().sum() for result in function(*leaves))

        places = tuple(range(len(arguments)))
        gradient = torch.func.grad(loss, argnums=places)
        assert_equal(gradient(*arguments), by_formula(kind, gradient, *arguments))
        over_batch = torch.func.vmap(gradient, in_dims=(0, *[None] * (len(arguments) - 1)))
        values = torch.stack([arguments[0], randn(*arguments[0].shape)])
        assert_equal(over_batch(values, *arguments[1:]), by_formula(kind, over_batch, values, *arguments[1:]))
        jacobian = torch.func.jacrev(function, argnums=(0, 1))
        ours = jacobian(*arguments)
        assert_equal(tensors(ours), tensors(by_formula(kind, jacobian, *arguments)))
        over_weights = torch.func.vmap(function, in_dims=(None,) * 2 + (0,) * (len(arguments) - 2))
        stacked = [*arguments[:2], *[torch.stack([leaf, randn(*leaf.shape)]) for leaf in arguments[2:]]]
        assert_equal(over_weights(*stacked), by_formula(kind, over_weights, *stacked))

    @by_quick_cell
    @pytest.mark.parametrize("batch_first", (False, True))
    def test_gradients_of_each_sample(self, kind, batch_first):
        layer = kind(3, 5, num_layers=2, batch_first=batch_first, **F64)
        value, hx = randn(*((3, 4) if batch_first else (4, 3)), 3), states_of(layer, 3)

        def loss(results):
            return sum((index + 1) * result.sin().sum() for index, result in enumerate(tensors(results)))

        dim = 0 if batch_first else 1
        expected = []
        for sample in range(3):
            given = value.narrow(dim, sample, 1), on_states(lambda one, sample=sample: one.narrow(1, sample, 1), hx)
            expected.append(torch.autograd.grad(loss(layer(*given, return_states=True)), list(layer.parameters())))
        results = call_for_per_sample_grads(layer, batch_size=3, loss_reduction="sum", batch_first=batch_first)(
            value, hx, return_states=True
        )
        loss(results).backward()
        for parameter, gradients in zip(layer.parameters(), zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(parameter.grad_sample, torch.stack(gradients), rtol=1e-8, atol=1e-9)

    @by_quick_cell
    def test_gradients_of_each_sample_of_a_cell(self, kind):
        step, value = kind.Cell(3, 5, **F64), randn(4, 3)
        expected = [
            torch.autograd.grad(sum(r.sin().sum() for r in tensors(step(row[None]))), list(step.parameters()))
            for row in value
        ]
        results = call_for_per_sample_grads(step, batch_size=4, loss_reduction="sum")(value)
        sum(result.sin().sum() for result in tensors(results)).backward()
        for parameter, gradients in zip(step.parameters(), zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(parameter.grad_sample, torch.stack(gradients), rtol=1e-8, atol=1e-9)

    @thorough
    @by_cell
    def test_functionalize(self, kind):
        function, arguments = call_of(kind(3, 5, num_layers=2, **F64))
        assert_equal(torch.func.functionalize(function)(*arguments), function(*arguments))
