"""pack_weights(dtype), pack() and unpack(): rounded weights, for int8 also what they are multiplied by."""

import copy
import io
import math

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS, flatten, randn
from chance import note
from test_freeze import CHANGES, fresh_copy, with_gradients
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn

NARROW = {"bf16": torch.bfloat16, "int8": torch.int8}
by_dtype = pytest.mark.parametrize("dtype", NARROW.values(), ids=NARROW)
by_class = pytest.mark.parametrize("name", (*LAYERS, *CELLS))


def rounded(weight, dtype):
    """What the docstring says of a matrix, in float64."""
    if dtype == torch.bfloat16:
        return weight.to(dtype).double()
    scale = (weight.double().abs().amax(1, keepdim=True) / 127).float().double()
    return (weight.double() / scale).round() * scale


def exact(module, name, dtype, *sizes, **options):
    """torch.nn's module in float64, with the module's biases and its matrices rounded."""
    theirs = getattr(nn, name)(*sizes, **options, dtype=torch.float64)
    state = module.state_dict()
    theirs.load_state_dict({key: rounded(w, dtype) if w.dim() > 1 else w.double() for key, w in state.items()})
    return theirs


# Of what float64 computes from the same weights: float32's rounding, or that of 16 bits.
TOLERANCE = {torch.bfloat16: 2e-5, torch.int8: 4e-4}


def assert_close(actual, expected, dtype):
    actual, expected = flatten(actual), flatten(expected)
    assert set(actual) == set(expected)
    for key, result in actual.items():
        error = (result.double() - expected[key]).abs().max().item()
        note(error / TOLERANCE[dtype])
        assert error <= TOLERANCE[dtype], key


def precisions(module, *args):
    return {row.precision for row in fastrnn.explain(module, *args).rows if row.pass_ == "forward"}


@pytest.mark.isa
@by_dtype
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "sizes", ((9, 2, 5, 37, 1), (40, 3, 33, 16, 3), (1, 1, 70, 65, 2), (7, 17, 3, 8, 2), (300, 3, 5, 37, 3)), ids=str
)
@pytest.mark.parametrize("options", ({}, {"num_layers": 3, "bias": False}, {"num_layers": 2, "bidirectional": True}))
@torch.no_grad()
def test_equals_the_layer_of_rounded_weights(kernel, dtype, sizes, options):
    """Tails of vectors and tiles; threads that divide rows, units, directions and layers."""
    (layer, kernel_options), (steps, batch, input_size, hidden_size, threads) = KERNELS[kernel], sizes
    torch.set_num_threads(threads)
    options = {**kernel_options, **options}
    module = getattr(fastrnn, layer)(input_size, hidden_size, **options)
    theirs = exact(module, layer, dtype, input_size, hidden_size, **options)
    value = randn(steps, batch, input_size)
    assert module.pack_weights(dtype) is module
    assert {row.weights for row in fastrnn.explain(module, value).rows if row.pass_ == "forward"} == {"packed ahead"}
    assert_close(module(value), theirs(value.double()), dtype)


@pytest.mark.isa
@by_dtype
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("hidden_size", "threads"), ((24, (1, 3)), (150, (1, 2))))
@torch.no_grad()
def test_same_bits_alone_in_a_batch_and_on_threads(kernel, dtype, hidden_size, threads):
    layer, options = KERNELS[kernel]
    module = getattr(fastrnn, layer)(70, hidden_size, num_layers=2, **options).pack_weights(dtype)
    value = randn(50, 19, 70)
    results = []
    for count in threads:
        torch.set_num_threads(count)
        results.append(flatten(module(value)))
        for row in (0, 7, 18):
            alone = flatten(module(value[:, row : row + 1]))
            assert all(torch.equal(one[:, 0], results[0][key][:, row]) for key, one in alone.items())
    assert all(torch.equal(one, results[1][key]) for key, one in results[0].items())


@by_dtype
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_packed_sequences_and_lengths(layer, dtype):
    module = getattr(fastrnn, layer)(5, 37, bidirectional=True)
    theirs = exact(module, layer, dtype, 5, 37, bidirectional=True)
    module.pack_weights(dtype)
    value, lengths = randn(6, 3, 5), torch.tensor([4, 6, 1])
    expected = theirs(pack_padded_sequence(value.double(), lengths, enforce_sorted=False))
    assert_close(module(pack_padded_sequence(value, lengths, enforce_sorted=False)), expected, dtype)
    assert_close(module(value, lengths=lengths)[1], expected[1], dtype)


@pytest.mark.isa
@by_dtype
@pytest.mark.parametrize("name", CELLS)
@torch.no_grad()
def test_cells(name, dtype):
    module = getattr(fastrnn, name)(5, 37)
    theirs = exact(module, name, dtype, 5, 37)
    value = randn(4, 5)
    assert_close(module.pack_weights(dtype)(value), theirs(value.double()), dtype)
    assert precisions(module, value) == {f"float32 on {str(dtype).removeprefix('torch.')} weights"}


@by_dtype
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_a_stream_keeps_what_is_packed(layer, dtype):
    module = getattr(fastrnn, layer)(5, 37, num_layers=2).eval().pack_weights(dtype)
    value = randn(9, 5)
    stream = fastrnn.Stream(module)
    outputs = [stream.step(value[0]), *stream(value[1:4]), *map(stream.step, value[4:])]
    assert torch.equal(torch.stack(outputs), module(value)[0])
    assert module._frozen.dtype == dtype


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_bfloat16_layers_in_int8(layer):
    module = getattr(fastrnn, layer)(5, 37).to(torch.bfloat16)
    theirs = exact(module, layer, torch.int8, 5, 37)
    value = randn(9, 2, 5).to(torch.bfloat16)
    assert precisions(module.pack_weights(torch.int8), value) == {"float32 on int8 weights"}
    output, expected = module(value)[0], theirs(value.double())[0]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, rtol=2**-8, atol=TOLERANCE[torch.int8])


class TestInt8:
    """What the integers and their scales make of unusual rows."""

    @pytest.mark.isa
    @pytest.mark.parametrize("depth", (1, 7, 512, 513, 1500))
    def test_products_are_exact(self, depth):
        """Of integers that need no rounding, whatever the depth."""
        integers = torch.randint(-127, 128, (40, depth), dtype=torch.float64)
        integers[:, 0] = 127
        factors = torch.randint(-32767, 32768, (3, depth), dtype=torch.float64)
        factors[:, -1] = 32767
        layer = fastrnn.RNN(depth, 40, nonlinearity="relu", bias=False)
        layer.weight_ih_l0.data, layer.weight_hh_l0.data = integers.float(), torch.zeros(40, 40)
        layer.pack_weights(torch.int8)
        with torch.no_grad():
            output = layer(factors.float()[None])[0][0].double()
        expected = (factors @ integers.t()).clamp(min=0)
        torch.testing.assert_close(output, expected, rtol=2**-22, atol=2**-22 * 127 * 32767 * depth)

    def test_rows_have_scales_of_their_own(self):
        """Of input and states: what another sequence or step holds changes nothing."""
        module = fastrnn.GRU(5, 37).pack_weights(torch.int8)
        value = randn(9, 2, 5)
        with torch.no_grad():
            before = module(value)[0]
            value[:, 1] *= 1e6
            value[7] *= 1e-6
            after = module(value)[0]
        assert torch.equal(after[:7, 0], before[:7, 0])

    @pytest.mark.parametrize("magnitude", (1e30, 1e-30))
    def test_magnitudes_of_the_input(self, magnitude):
        weight, value = randn(37, 5), randn(3, 5)
        layer = fastrnn.RNN(5, 37, nonlinearity="relu", bias=False)
        layer.weight_ih_l0.data, layer.weight_hh_l0.data = weight, torch.zeros(37, 37)
        layer.pack_weights(torch.int8)
        with torch.no_grad():
            one, other = layer(value[None])[0], layer(magnitude * value[None])[0]
        torch.testing.assert_close(other / magnitude, one, rtol=1e-4, atol=1e-4 * one.max().item())

    @staticmethod
    def products(weight):
        """Columns of W_ih, as a layer packed in int8 multiplies them."""
        layer = fastrnn.RNN(weight.shape[1], weight.shape[0], nonlinearity="relu", bias=False)
        layer.weight_ih_l0.data, layer.weight_hh_l0.data = weight, torch.zeros_like(layer.weight_hh_l0)
        layer.pack_weights(torch.int8)
        with torch.no_grad():
            unit = torch.eye(weight.shape[1])[None]
            return (layer(unit)[0] - layer(-unit)[0])[0].t()

    def test_a_row_of_zeros(self):
        weight = randn(37, 5)
        weight[3] = 0
        products = self.products(weight)
        assert (products[3] == 0).all()
        torch.testing.assert_close(products, weight, rtol=0, atol=weight.abs().max().item() / 254 * 1.001)

    @pytest.mark.parametrize("magnitude", (1e30, 1e-30, 1e-40))
    def test_magnitudes(self, magnitude):
        """Down to denormals, and beside rows of another size."""
        weight = randn(37, 5)
        weight[3] *= magnitude
        products = self.products(weight)
        bound = weight.abs().amax(1, keepdim=True) / 254
        assert ((products - weight).abs() <= bound * 1.001 + 127 * 2.0**-150).all()

    def test_an_outlier_costs_its_row_alone(self):
        weight = randn(37, 50).clamp(-3, 3)
        weight[3, 7] = 1e4
        products = self.products(weight)
        error = (products - weight).abs()
        assert error[3].max() <= 1e4 / 254 * 1.001
        assert (products[3, 8:] == 0).all(), "which the docstring warns of"
        error[3] = 0
        assert error.max() <= 3 / 254 * 1.001

    @pytest.mark.parametrize("value", (math.nan, math.inf))
    @pytest.mark.parametrize("name", ("weight_ih_l0", "weight_hh_l1", "weight_hr_l0"))
    def test_refuses_what_integers_cannot_hold(self, value, name):
        module = fastrnn.LSTM(5, 37, num_layers=2, proj_size=3)
        with torch.no_grad():
            getattr(module, name)[1, 2] = value
        with pytest.raises(ValueError, match=f"{name} has NaN or infinity.*bfloat16"):
            module.pack_weights(torch.int8)
        assert module._frozen is None
        with torch.no_grad():
            output = module.pack_weights(torch.bfloat16)(torch.ones(2, 1, 5))[0]
        assert output.isnan().any() or math.isinf(value)

    @pytest.mark.parametrize("layer", ("LSTM", "GRU"))
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
    def test_no_less_accurate_than_quantize_dynamic(self, layer):
        quantize = getattr(torch.ao.quantization, "quantize_dynamic", None)
        if quantize is None:
            pytest.skip("this torch has no quantize_dynamic")
        theirs, ours = (nn.Sequential(getattr(package, layer)(32, 96)) for package in (nn, fastrnn))
        ours.load_state_dict(theirs.state_dict())
        value = randn(100, 4, 32)
        with torch.no_grad():
            expected = copy.deepcopy(theirs).double()(value.double())[0]
            errors = [
                (model(value)[0].double() - expected).square().mean().sqrt()
                for model in (fastrnn.pack(ours, torch.int8), quantize(theirs, {type(theirs[0])}, dtype=torch.qint8))
            ]
        assert errors[0] < errors[1]

    def test_non_finite_input_reaches_the_output(self):
        module = fastrnn.GRU(5, 37).pack_weights(torch.int8)
        value = randn(9, 2, 5)
        value[4, 1, 2] = math.nan
        with torch.no_grad():
            output = module(value)[0]
        assert output[:4].isfinite().all()
        assert output[:, 0].isfinite().all()
        assert output[4:, 1].isnan().all()


@by_dtype
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_no_stale_weights(change, dtype):
    module, value = with_gradients(fastrnn.GRU(5, 37)), randn(9, 2, 5)
    before = module.pack_weights(dtype)(value)[0]
    change(module)
    fresh = fresh_copy(module)
    with (
        pytest.warns(UserWarning, match="GRU: computes with its parameters.*(have changed|others)")
        if module._frozen
        else (
            torch.no_grad()  # to() unpacks
        )
    ):
        after = module(value)[0]
    assert torch.equal(after, fresh(value)[0])
    assert not torch.equal(after, before)
    assert torch.equal(module.pack_weights(dtype)(value)[0], fresh.pack_weights(dtype)(value)[0])


@by_dtype
@torch.no_grad()
def test_w_ih_is_packed_too(dtype):
    module, value = fastrnn.GRU(5, 37).pack_weights(dtype), randn(9, 2, 5)
    module.weight_ih_l0.mul_(2)
    with pytest.warns(UserWarning, match="have changed since") as warned:
        module(value)
    assert warned[0].filename == __file__
    assert precisions(module, value) == {"float32"}


@by_dtype
@torch.no_grad()
def test_the_same_values_are_packed_still(dtype, recwarn):
    module, value = with_gradients(fastrnn.GRU(5, 37)).pack_weights(dtype), randn(9, 2, 5)
    module.load_state_dict(module.state_dict())
    torch.optim.SGD(with_gradients(fastrnn.RNN(2, 3)).parameters(), 0.1).step()
    assert precisions(module, value) != {"float32"}
    assert not recwarn.list


@by_dtype
def test_training_computes_with_the_parameters(dtype, recwarn):
    module, value = fastrnn.LSTM(5, 37), randn(9, 2, 5)
    plain = copy.deepcopy(module)
    assert torch.equal(module.pack_weights(dtype)(value)[0], plain(value)[0])
    module(value)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert precisions(module, value) == {"float32"}
    assert not recwarn.list


OTHER_CALLS = {
    "resets": lambda module, value: module(value, resets=torch.zeros(9, 2, dtype=torch.bool)),
    "return_states": lambda module, value: module(value, return_states=True),
    "autocast": torch.autocast("cpu", torch.bfloat16)(lambda module, value: module(value)),
}


@pytest.mark.parametrize("other_call", OTHER_CALLS.values(), ids=OTHER_CALLS)
@torch.no_grad()
def test_other_calls_compute_with_the_parameters_and_warn_once(other_call, recwarn):
    module, value = fastrnn.LSTM(5, 37), randn(9, 2, 5)
    expected = flatten(other_call(module, value))
    module.pack_weights(torch.int8)
    for _ in range(2):
        assert all(torch.equal(one, expected[key]) for key, one in flatten(other_call(module, value)).items())
    assert [warning.filename for warning in recwarn.list] == [__file__]
    assert "do not read them" in str(recwarn.list[0].message)
    assert precisions(module, value) == {"float32 on int8 weights"}


@torch.no_grad()
def test_a_stream_blames_who_steps():
    module = fastrnn.GRU(5, 37).eval().pack_weights(torch.int8)
    stream = fastrnn.Stream(module)
    for step in (stream.step, stream.step, lambda sample: stream(sample[None])):
        step(randn(5))
        module.pack_weights(torch.int8).weight_hh_l0.mul_(2)
        with pytest.warns(UserWarning, match="have changed since") as warned:
            step(randn(5))
        assert warned[0].filename == __file__
        module.pack_weights(torch.int8)


@torch.no_grad()
def test_transforms_compute_with_the_parameters():
    module, value = fastrnn.LSTM(5, 37), randn(4, 9, 2, 5)
    expected = torch.stack([module(one)[0] for one in value])
    module.pack_weights(torch.int8)
    torch.testing.assert_close(torch.func.vmap(lambda one: module(one)[0])(value), expected)
    others = dict(fastrnn.LSTM(5, 37).named_parameters())
    with pytest.warns(UserWarning, match="others than those that were packed"):
        given = torch.func.functional_call(module, others, (value[0],))[0]
    assert torch.equal(given, torch.func.functional_call(copy.deepcopy(module), others, (value[0],))[0])


@by_class
@torch.no_grad()
def test_copies_are_not_packed_and_the_state_dict_is_as_it_was(name):
    module = getattr(fastrnn, name)(5, 37)
    keys, value = list(module.state_dict()), randn(9, 5)
    module.pack_weights(torch.int8)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert precisions(other, value) == {"float32"}
    assert list(module.state_dict()) == keys
    assert precisions(module.unpack_weights(), value) == {"float32"}


@torch.no_grad()
def test_memory_of_the_copies():
    """A half and a quarter of the weights', but for biases and scales."""
    module = fastrnn.LSTM(128, 128)
    weights = sum(parameter.nbytes for parameter in module.parameters())
    for dtype, share in ((torch.bfloat16, 0.5), (torch.int8, 0.25)):
        assert share <= module.pack_weights(dtype)._frozen.whole.nbytes / weights < share + 0.03


@pytest.mark.thorough
@by_class
@torch.no_grad()
def test_compiled(name):
    """The call breaks the graph, and is what it is without torch.compile."""
    module, value = getattr(fastrnn, name)(5, 37).pack_weights(torch.int8), randn(9, 5)
    expected = flatten(module(value))
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager")
    assert all(torch.equal(one, expected[key]) for key, one in flatten(compiled(value)).items())
    module.weight_hh_l0.mul_(2) if name in LAYERS else module.weight_hh.mul_(2)
    with pytest.warns(UserWarning, match="have changed since"):
        compiled(value)


@pytest.mark.thorough
@torch.no_grad()
def test_exported():
    module, value = fastrnn.GRU(5, 37).pack_weights(torch.int8), randn(9, 2, 5)
    with pytest.raises(Exception, match="no graph can hold"):
        torch.compile(module, backend="eager", fullgraph=True)(value)
    with pytest.raises(Exception, match="no graph can hold"):
        torch.export.export(nn.Sequential(module), (value,))
    with pytest.raises(RuntimeError, match=r"GRU: its weights are packed in torch.int8.*fastrnn.unpack"):
        torch.jit.trace(module, (value,))
    exported = torch.export.export(nn.Sequential(fastrnn.unpack(module)), (value,))
    assert torch.equal(exported.module()(value)[0], module(value)[0])


REFUSED = {
    "options": (lambda: fastrnn.LSTM(5, 37, zoneout=0.1), "the layer has zoneout=0.1"),
    "float64": (lambda: fastrnn.GRU(5, 37, dtype=torch.float64), "float64, which are not rounded to int8"),
    "float16": (lambda: fastrnn.RNNCell(5, 37, dtype=torch.float16), "weights are torch.float16"),
    "device": (lambda: fastrnn.LSTM(5, 37, device="meta"), "weights are on meta"),
    "a cell of one's own": (lambda: fastrnn.LiGRU(5, 37), "kernels of a cell of one's own"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_it_cannot_serve(make, reason):
    module = make()
    with pytest.raises(ValueError, match=reason):
        module.pack_weights(torch.int8)
    assert module._frozen is None
    with pytest.warns(UserWarning, match="pack: 1 is left as it is") as warned:
        fastrnn.pack(nn.Sequential(nn.Identity(), module), torch.int8)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("dtype", (torch.float16, torch.float32, torch.qint8, torch.uint8, "int8"))
def test_refuses_other_dtypes(dtype):
    with pytest.raises(ValueError, match=r"pack_weights: dtype must be None, torch.bfloat16 or torch.int8, got"):
        fastrnn.LSTM(5, 37).pack_weights(dtype)
    with pytest.raises(ValueError, match=r"pack: dtype must be"):
        fastrnn.pack(nn.Linear(2, 3), dtype)


def test_parametrized_weights_are_refused():
    module = weight_norm(fastrnn.LSTM(5, 37), "weight_hh_l0")
    with pytest.raises(RuntimeError, match=r"weight_hh_l0.*remove_parametrizations"):
        module.pack_weights(torch.int8)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 5)
        self.rnn = fastrnn.LSTM(5, 8, bidirectional=True)
        self.top = nn.Sequential(fastrnn.GRUCell(16, 7), nn.Linear(7, 3))

    def forward(self, tokens):
        return self.top(self.rnn(self.embed(tokens))[0][-1])


@pytest.mark.parametrize("dtype", (None, *NARROW.values()))
@torch.no_grad()
def test_a_model(dtype):
    model, tokens = Tagger().eval(), torch.randint(10, (6, 2))
    before = model(tokens)
    assert fastrnn.pack(model, dtype=dtype) is model
    assert [module._frozen.dtype for module in (model.rnn, model.top[0])] == [dtype] * 2
    after = model(tokens)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 if dtype is None else 0.1)
    assert fastrnn.unpack(model) is model
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize("function", (fastrnn.pack, fastrnn.unpack))
def test_takes_modules_alone(function):
    with pytest.raises(TypeError, match=rf"{function.__name__} takes a torch.nn.Module, got list"):
        function([fastrnn.LSTM(5, 37)])


def test_quantize_dynamic_points_here():
    with pytest.raises(NotImplementedError, match=r"fastrnn.pack\(model, dtype=torch.int8\)"):
        fastrnn.LSTM(5, 37).qconfig = torch.ao.quantization.default_dynamic_qconfig


def test_ops_refuse_what_does_not_fit():
    weights = [weight.detach() for weight in fastrnn.GRU(5, 37).parameters()]
    pack = torch.ops.fastrnn._pack
    with pytest.raises(RuntimeError, match="narrowed weights are bfloat16 or int8"):
        pack("gru", weights, False, True, None)
    integers = [weight.to(torch.int8) if weight.dim() > 1 else weight for weight in weights]
    with pytest.raises(RuntimeError, match="scales must be of w_ih, w_hh"):
        pack("gru", integers, False, True, None)
    with pytest.raises(RuntimeError, match="a scale must be there for each row"):
        pack("gru", integers, False, True, [torch.ones(111), torch.ones(110)])
    (packed,) = pack("gru", integers, False, True, [torch.ones(111), torch.ones(111)])
    primals = [randn(9, 2, 5), torch.zeros(1, 2, 37), *weights]
    torch.ops.fastrnn._plain_infer("gru", primals, None, False, False, packed)
    for other in (packed[:-4], packed.view(torch.bfloat16)):
        with pytest.raises(RuntimeError, match="packed is not what _pack made"):
            torch.ops.fastrnn._plain_infer("gru", primals, None, False, False, other)
