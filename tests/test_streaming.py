"""fastrnn.Stream: a sequence in pieces gives what it gives whole."""

import warnings

import pytest
import torch
from cases import LAYERS, randn
from torch.nn.modules import module as module_hooks
from torch.nn.utils.parametrizations import weight_norm

import fastrnn
from fastrnn.modules import base

OPTIONS = (
    {},
    {"num_layers": 2},
    {"batch_first": True, "bias": False},
    {"dtype": torch.float64},
    {"zoneout": 0.2, "tbptt_steps": 2},
    # A cell of nearly equal units is normalised to anything at all: that magnifies f32's rounding past any tolerance.
    {"layer_norm": True, "num_layers": 2, "dtype": torch.float64},
)
by_layer = pytest.mark.parametrize("layer", LAYERS)


def build(layer, **options):
    return getattr(fastrnn, layer)(3, 5, **options).eval()


def pieces(length):
    """Single steps and chunks, in the order in which they come."""
    done = 0
    for size in (1, 4, 1, 1, 7, 1):
        if done < length:
            yield done, min(size, length - done)
        done += size


@by_layer
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch", (None, 1, 4))
def test_pieces_equal_the_whole(layer, options, batch):
    module = build(layer, **options)
    dtype, first = options.get("dtype", torch.float32), options.get("batch_first", False) and batch is not None
    value = randn(*((12,) if batch is None else (12, batch)), 3, dtype=dtype)
    with torch.no_grad():
        expected, final = module(value.transpose(0, 1) if first else value)
    stream, outputs = fastrnn.Stream(module), []
    for begin, size in pieces(12):
        if size == 1:
            outputs.append(stream.step(value[begin]).unsqueeze(0))
        else:
            chunk = value[begin : begin + size]
            output = stream(chunk.transpose(0, 1) if first else chunk)
            outputs.append(output.transpose(0, 1) if first else output)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(torch.cat(outputs), expected.transpose(0, 1) if first else expected, **tolerance)
    torch.testing.assert_close(stream.state, final, **tolerance)


def test_projection():
    module, value = build("LSTM", proj_size=2), randn(6, 2, 3)
    stream = fastrnn.Stream(module, pack=False)
    with torch.no_grad():
        torch.testing.assert_close(torch.stack([stream.step(sample) for sample in value]), module(value)[0])


@by_layer
def test_reset(layer):
    module, value = build(layer), randn(4, 3, 3)
    stream = fastrnn.Stream(module)
    stream(value)
    stream.reset(torch.tensor([True, False, True]))
    with torch.no_grad():
        again, _ = module(value)
        expected, _ = module(torch.cat([value, value]))
    output = stream(value)
    torch.testing.assert_close(output[:, [0, 2]], again[:, [0, 2]])
    torch.testing.assert_close(output[:, 1], expected[4:, 1])
    stream.reset()
    torch.testing.assert_close(stream(value[:, :2]), again[:, :2])


def test_weights_that_change():
    module, value = build("GRU"), randn(3, 3)
    stream = fastrnn.Stream(module)
    stream.step(value[0])
    with torch.no_grad():
        module.weight_hh_l0.zero_()
        torch.testing.assert_close(stream.step(value[1]), module(value[1:2], stream_state(module, value))[0][0])


def stream_state(module, value):
    """After the first sample, from zeros: what w_hh is makes no difference."""
    return module(value[:1])[1]


def test_records_no_gradient():
    stream = fastrnn.Stream(build("LSTM"))
    assert not stream.step(randn(3).requires_grad_()).requires_grad
    assert fastrnn.explain(stream.layer, randn(1, 3)).rows[0].weights != "packed ahead"  # a call that records gradients
    with torch.no_grad():
        assert fastrnn.explain(stream.layer, randn(1, 3)).rows[0].weights == "packed ahead"


class TestWhichWay:
    """A plain step does not go through the layer's call, and any other does."""

    @staticmethod
    def calls(module, monkeypatch, samples=4):
        stream, count = fastrnn.Stream(module), []
        run = base.run_stack
        monkeypatch.setattr(base, "run_stack", lambda *args, **options: (count.append(1), run(*args, **options))[1])
        for sample in randn(samples, 2, 3):
            stream.step(sample)
        return len(count)

    @by_layer
    @pytest.mark.parametrize("options", ({}, {"num_layers": 2, "dropout": 0.5}, {"batch_first": True}), ids=str)
    def test_plain(self, layer, options, monkeypatch):
        assert self.calls(build(layer, **options), monkeypatch) == 1  # the first, which makes the states

    @by_layer
    @pytest.mark.parametrize("options", ({"zoneout": 0.1}, {"dtype": torch.bfloat16}), ids=str)
    def test_others(self, layer, options, monkeypatch):
        module = build(layer, **options)
        if "dtype" in options:
            monkeypatch.setattr(f"{__name__}.randn", lambda *shape: torch.randn(*shape, dtype=torch.bfloat16))
        assert self.calls(module, monkeypatch) == 4

    def test_dropout_in_training(self, monkeypatch):
        with pytest.warns(UserWarning, match="training mode"):
            assert self.calls(build("GRU", num_layers=2, dropout=0.5).train(), monkeypatch) == 4

    @pytest.mark.parametrize("kind", ("forward_hook", "forward_pre_hook"))
    @pytest.mark.parametrize("everywhere", (False, True), ids=("of the layer", "global"))
    def test_hooks(self, kind, everywhere):
        module, seen = build("GRU"), []
        register = (
            getattr(module_hooks, f"register_module_{kind}") if everywhere else getattr(module, f"register_{kind}")
        )
        stream = fastrnn.Stream(module)
        stream.step(randn(2, 3))
        handle = register(lambda *_: seen.append(1))
        try:
            for sample in randn(3, 2, 3):
                stream.step(sample)
        finally:
            handle.remove()
        assert len(seen) == 3

    @pytest.mark.parametrize("where", ("layer", "class"))
    def test_forward_that_was_set(self, where, monkeypatch):
        module = build("GRU")
        value, forward = randn(3, 2, 3), type(module).forward
        stream = fastrnn.Stream(module)
        stream.step(value[0])
        if where == "layer":
            monkeypatch.setattr(module, "forward", lambda *args: (-forward(module, *args)[0], "state"))
        else:
            monkeypatch.setattr(type(module), "forward", lambda *args: (-forward(*args)[0], "state"))
        state = stream.state
        for sample in value[1:]:
            with torch.no_grad():
                torch.testing.assert_close(stream.step(sample), -forward(module, sample.unsqueeze(0), state)[0][0])
            assert stream.state == "state"
            stream.state = state

    def test_compiled_call(self):
        torch._dynamo.reset()
        module = build("GRU")
        graphs = []
        module.compile(backend=lambda graph, _: (graphs.append(1), graph.forward)[1])
        stream = fastrnn.Stream(module)
        stream.step(randn(2, 3))
        first = len(graphs)
        stream.step(randn(2, 3))
        assert len(graphs) > first  # another, for the state is there by now

    @by_layer
    @pytest.mark.parametrize("name", ("weight_ih_l0", "weight_hh_l0", "bias_hh_l1"))
    @pytest.mark.parametrize("before", (True, False), ids=("before", "after"))
    def test_weights_that_are_plain_tensors(self, layer, name, before):
        module = build(layer, num_layers=2)
        value, streams = randn(4, 2, 3), []
        if not before:
            streams.append(fastrnn.Stream(module))
            streams[0].step(value[0])
            streams[0].reset()
        weight = getattr(module, name).detach() * 2
        delattr(module, name)
        setattr(module, name, weight)
        stream = streams[0] if streams else fastrnn.Stream(module)
        with torch.no_grad():
            torch.testing.assert_close(torch.stack([stream.step(sample) for sample in value]), module(value)[0])

    def test_weights_that_are_computed(self):
        module, value = weight_norm(build("GRU"), "weight_ih_l0"), randn(4, 2, 3)
        stream = fastrnn.Stream(module)
        with torch.no_grad():
            torch.testing.assert_close(torch.stack([stream.step(sample) for sample in value]), module(value)[0])

    def test_states_that_were_assigned(self):
        module = build("LSTM", num_layers=2)
        stream, hx = fastrnn.Stream(module), (randn(2, 4, 5), randn(2, 4, 5))
        stream.state, sample = hx, randn(4, 3)
        with torch.no_grad():
            output, final = module(sample.unsqueeze(0), hx)
        torch.testing.assert_close(stream.step(sample), output[0])
        torch.testing.assert_close(stream.state, final)


@by_layer
@pytest.mark.parametrize("batch", ((), (2,)), ids=str)
def test_output_is_not_the_state(layer, batch):
    """Whoever changes an output in place does not change what comes."""
    module, value = build(layer), randn(4, *batch, 3)
    stream, touched = fastrnn.Stream(module), fastrnn.Stream(module)
    for sample in value:
        expected, output = stream.step(sample), touched.step(sample)
        torch.testing.assert_close(output, expected)
        output.zero_()


class TestTrainingMode:
    RANDOM = (
        {"num_layers": 2, "dropout": 0.5},
        {"zoneout": 0.1},
        {"weight_dropout": 0.1},
        {"variational_dropout": 0.1},
    )

    @pytest.mark.parametrize("options", RANDOM, ids=str)
    @pytest.mark.parametrize("call", ("step", "__call__"))
    def test_warns_once(self, options, call):
        stream = fastrnn.Stream(build("GRU", **options).train())
        run = getattr(stream, call)
        with pytest.warns(UserWarning, match=rf"random \({list(options)[-1]}\).*eval\(\)") as warned:
            run(randn(1, 3))
        assert [one.filename for one in warned] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(randn(1, 3))

    @pytest.mark.parametrize("options", ({}, {"num_layers": 2}, {"tbptt_steps": 2}), ids=str)
    def test_says_nothing_where_nothing_is_random(self, options, recwarn):
        for training in (True, False):
            fastrnn.Stream(build("GRU", **options).train(training))(randn(3, 1, 3))
        for options in self.RANDOM:
            stream = fastrnn.Stream(fastrnn.GRU(3, 5, **options))
            stream.layer.eval()
            stream.step(randn(3))
        assert not recwarn.list


class TestRefusals:
    def test_layers(self):
        with pytest.raises(ValueError, match="bidirectional"):
            fastrnn.Stream(fastrnn.GRU(3, 5, bidirectional=True))
        with pytest.raises(TypeError, match=r"got torch\.nn\.GRU.*fastrnn\.convert"):
            fastrnn.Stream(torch.nn.GRU(3, 5))

    def test_samples(self):
        with pytest.raises(ValueError, match="3D"):
            fastrnn.Stream(build("GRU")).step(randn(2, 2, 3))

    def test_masks(self):
        stream = fastrnn.Stream(build("GRU"))
        with pytest.raises(ValueError, match="no batch yet"):
            stream.reset(torch.tensor([True]))
        stream.step(randn(2, 3))
        with pytest.raises(ValueError, match=r"got \(3,\)"):
            stream.reset(torch.ones(3, dtype=torch.bool))
        with pytest.raises(TypeError, match="bool"):
            stream.reset(torch.ones(2))

    def test_wrong_states(self):
        stream = fastrnn.Stream(build("LSTM"))
        stream.state = randn(1, 2, 5)
        with pytest.raises(RuntimeError, match=r"must be a tuple \(hx, cx\)"):
            stream.step(randn(2, 3))
        stream.state = (randn(1, 2, 5), randn(1, 3, 5))
        with pytest.raises(RuntimeError, match="expected cx size"):
            stream.step(randn(2, 3))

    def test_another_batch(self):
        stream = fastrnn.Stream(build("GRU"))
        stream.step(randn(2, 3))
        with pytest.raises(RuntimeError, match="expected hx size"):
            stream.step(randn(4, 3))
