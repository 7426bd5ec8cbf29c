"""Outputs and every gradient against float64 on the CPU, and the error against torch.nn's own on the same GPU."""

import itertools

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS, Case, assert_same, call, flatten, option_product, randn, tolerance
from drawn import LENGTHS, case_of
from measure import check, close, floor
from precisions import PRECISIONS
from torch import nn

import fastrnn

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
on_chip = pytest.mark.parametrize("precision", [p for p in PRECISIONS.values() if p.on_chip], ids=lambda p: p.name)

LAYOUTS = ("batched", "unbatched", "packed", "packed_unsorted", *LENGTHS)

# Every option, layout, and hx given or not. Packing and lengths need a batch.
OPTIONS = [
    Case(layer, options, layout, has_hx)
    for layer in LAYERS
    for options, layout, has_hx in itertools.product(option_product(layer), LAYOUTS, (False, True))
]


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options(case, device):
    """In float64, where nothing but a mistake can hide."""
    check(case, PRECISIONS["f64"], device)


@by_kernel
@by_precision
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("has_hx", "bidirectional"), ((False, True), (True, False)))
def test_layouts(kernel, precision, layout, has_hx, bidirectional, device):
    """In every precision, at a size that fits a persistent kernel: two layers, three tiles of rows."""
    options = {"num_layers": 2, "bidirectional": bidirectional}
    check(case_of(kernel, 32, 35, 7, layout, has_hx=has_hx, **options), precision, device)


@pytest.mark.parametrize("layer", LAYERS)
@on_chip
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("layout", ("batched", "lengths_gpu"))
def test_persistent_without_bias(layer, precision, batch_first, layout, device):
    options = {"bias": False, "batch_first": batch_first}
    check(Case(layer, options, layout, True, seq=9, batch=18, input_size=8, hidden_size=48), precision, device)


# (H, B, T, I) around the tiles of the persistent kernels: 16 hidden units, 16 rows, 8 warps that share H.
SIZES = (
    (16, 1, 2, 1),
    (16, 16, 37, 5),
    (16, 17, 1, 16),
    (16, 3, 200, 16),
    (32, 64, 37, 7),
    (48, 17, 37, 16),
    (48, 130, 2, 64),
    (64, 16, 200, 10),
    (64, 1, 37, 33),
    (128, 64, 37, 16),
    (128, 3, 200, 128),
    (128, 1000, 3, 16),
    (512, 1, 200, 32),
    (512, 130, 37, 64),
    (1000, 16, 37, 24),
    (1000, 17, 2, 1000),
    (1024, 64, 37, 32),
    (1024, 130, 2, 64),
    (1024, 3, 37, 1024),
    (2048, 16, 4, 64),
)


# A projection has the streamed path alone.
KERNELS_AND_SIZES = [(kernel, size) for kernel in KERNELS for size in (SIZES[::3] if "proj" in kernel else SIZES)]


@by_precision
@pytest.mark.parametrize(("kernel", "size"), KERNELS_AND_SIZES, ids=str)
def test_sizes(kernel, precision, size, device):
    hidden, batch, seq, input_size = size
    check(case_of(kernel, hidden, batch, seq, input_size=input_size, bidirectional=seq < 37), precision, device)


@by_kernel
@on_chip
@pytest.mark.parametrize("num_layers", (2, 5))
def test_layers_behind_one_another(kernel, precision, num_layers, device):
    """Long enough for a wavefront of layers, on persistent kernels and on clusters."""
    for hidden in (64, 528):
        check(case_of(kernel, hidden, 3, 150, input_size=16, num_layers=num_layers), precision, device)


@by_kernel
@on_chip
@pytest.mark.parametrize("size", ((32, 33, 50), (256, 40, 50), (512, 17, 37)), ids=str)
def test_lengths_on_the_gpu(kernel, precision, size, device):
    """Rows that end early in one direction and join late in the other, in persistent kernels."""
    check(case_of(kernel, *size, "lengths_gpu", bidirectional=True), precision, device)


@by_kernel
@on_chip
def test_lengths_of_zero(kernel, precision, device):
    """Against the same call without the empty rows, whose states pass through with their gradients."""
    precision.switch()
    case = case_of(kernel, 32, 20, 9, bidirectional=True)
    module = case.build(precision.dtype, fastrnn).to(device)
    lengths = torch.arange(20) % 10
    width = case.options.get("proj_size") or 32
    hx = randn(2, 20, width).to(device, precision.dtype).requires_grad_()
    states = (hx, randn(2, 20, 32).to(device, precision.dtype).requires_grad_()) if case.layer == "LSTM" else hx
    value = randn(9, 20, 16).to(device, precision.dtype)
    value[:, lengths == 0] = float("nan")
    output, finals = module(value, states, lengths=lengths.to(device))
    finals = finals if isinstance(finals, tuple) else (finals,)
    states = states if isinstance(states, tuple) else (states,)
    assert (output[:, lengths == 0] == 0).all()
    upstream = [torch.randn_like(final) for final in finals]
    gradients = torch.autograd.grad(finals, states, upstream)
    for state, final, gradient, given in zip(states, finals, gradients, upstream, strict=True):
        assert torch.equal(final[:, lengths == 0], state[:, lengths == 0])
        assert torch.equal(gradient[:, lengths == 0], given[:, lengths == 0])

    some = lengths > 0
    packed = nn.utils.rnn.pack_padded_sequence(value[:, some], lengths[some], enforce_sorted=False)
    kept = tuple(state[:, some] for state in states)
    expected, expected_finals = module(packed, kept if case.layer == "LSTM" else kept[0])
    expected = nn.utils.rnn.pad_packed_sequence(expected)[0]
    expected_finals = expected_finals if isinstance(expected_finals, tuple) else (expected_finals,)
    close([output[:, some], *(final[:, some] for final in finals)], [expected, *expected_finals], precision.eps)


@pytest.mark.parametrize("cell", CELLS)
@by_precision
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("batched", (True, False))
@pytest.mark.parametrize("has_hx", (True, False))
def test_cells(cell, precision, bias, batched, has_hx, device):
    precision.switch()
    exact = getattr(nn, cell)(4, 19, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for weight in exact.parameters():
            weight.copy_(weight.to(precision.dtype))
    ours = getattr(fastrnn, cell)(4, 19, bias=bias, dtype=precision.dtype, device=device)
    ours.load_state_dict(exact.state_dict())
    batch = (3,) if batched else ()
    leaves = {"input": randn(*batch, 4, dtype=precision.dtype)}
    if has_hx:
        leaves["hx"] = randn(*batch, 19, dtype=precision.dtype)
        if cell == "LSTMCell":
            leaves["cx"] = randn(*batch, 19, dtype=precision.dtype)
    results = []
    for module, place in ((exact, ("cpu", torch.float64)), (ours, (device, precision.dtype))):
        moved = {name: leaf.to(*place).requires_grad_() for name, leaf in leaves.items()}
        outputs = list(flatten(call(module, moved)).values())
        gradients = torch.autograd.grad([out.sum() for out in outputs], [*moved.values(), *module.parameters()])
        results.append({str(i): t.detach().to("cpu", torch.float64) for i, t in enumerate((*outputs, *gradients))})
    # Of a step's few roundings the largest of some hundred elements, not their mean: 4 times it, as everywhere.
    relative = tolerance(precision.dtype, 1, 76) if precision.dtype == torch.float64 else 4 * floor(precision)
    assert_same(*results, relative)


@by_layer
@by_precision
def test_batch_of_zero(layer, precision, device):
    """Shapes, and gradients of zero for the weights rather than none."""
    precision.switch()
    module = getattr(fastrnn, layer)(8, 16, 2, bidirectional=True, dtype=precision.dtype, device=device)
    value = torch.randn(4, 0, 8, dtype=precision.dtype, device=device, requires_grad=True)
    output, finals = module(value)
    assert output.shape == (4, 0, 32)
    for final in finals if isinstance(finals, tuple) else (finals,):
        assert final.shape == (4, 0, 16)
    for gradient in torch.autograd.grad(output.sum(), list(module.parameters())):
        assert not gradient.any()


def everything(module, value, states, upstream):
    """Output, final states and all gradients."""
    output, finals = module(value, states)
    finals = finals if isinstance(finals, tuple) else (finals,)
    wanted = [value, *(states if isinstance(states, tuple) else (states,)), *module.parameters()]
    return [output, *finals, *torch.autograd.grad([output, *finals], wanted, [upstream, *map(torch.ones_like, finals)])]


@by_layer
@by_precision
@pytest.mark.parametrize("how", ("misaligned", "transposed", "expanded"))
def test_tensors_as_they_come(layer, precision, how, device):
    """Weights, input, states and upstream gradients at odd addresses or with strides: the same bits as from copies."""
    precision.switch()
    steps, batch, hidden = 6, 18, 32

    def placed(*shape, scale=1.0):
        plain = torch.randn(shape, dtype=precision.dtype, device=device) * scale
        if how == "misaligned":
            buffer = torch.zeros(plain.numel() + 1, dtype=precision.dtype, device=device)
            buffer[1:] = plain.flatten()
            return buffer[1:].view(shape)
        if how == "transposed":
            return plain.transpose(0, -1).contiguous().transpose(0, -1)
        return plain[:1].expand(shape)

    module = getattr(fastrnn, layer)(hidden, hidden, bidirectional=True, dtype=precision.dtype, device=device)
    plain = getattr(fastrnn, layer)(hidden, hidden, bidirectional=True, dtype=precision.dtype, device=device)
    for name, weight in module.named_parameters():
        weight.data = placed(*weight.shape, scale=1 / 6)
        getattr(plain, name).data = weight.detach().clone(memory_format=torch.contiguous_format)
    value = placed(steps, batch, hidden).requires_grad_()
    states = tuple(placed(2, batch, hidden).requires_grad_() for _ in range(2 if layer == "LSTM" else 1))
    upstream = placed(steps, batch, 2 * hidden)
    copies = [t.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for t in (value, *states)]
    hx, hx_copies = (states, tuple(copies[1:])) if layer == "LSTM" else (states[0], copies[1])
    actual = everything(module, value, hx, upstream)
    expected = everything(plain, copies[0], hx_copies, upstream.clone(memory_format=torch.contiguous_format))
    assert all(map(torch.equal, actual, expected))


@by_layer
def test_devices_are_not_mixed(layer, device):
    """A clear error, as torch.nn has one."""
    if device.type == "cpu":
        pytest.skip("a single device")
    module = getattr(fastrnn, layer)(4, 16)
    value = torch.randn(3, 2, 4)
    for mixed, given in ((module, value.to(device)), (module.to(device), value)):
        with pytest.raises(RuntimeError, match=r"on one device.*Move"):
            mixed(given)
