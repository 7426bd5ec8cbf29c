"""FakeTensorMode: shapes without values, for packed weights and streams, too."""

import warnings

import pytest
import torch
from cases import CELLS, LAYERS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import fastrnn

pytestmark = pytest.mark.thorough


def shapes(result):
    """Of fake tensors."""
    if isinstance(result, tuple):
        return tuple(map(shapes, result))
    assert isinstance(result, FakeTensor)
    return tuple(result.shape)


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
def test_packing_does_nothing(name):
    with FakeTensorMode(), torch.no_grad():
        module, value = getattr(fastrnn, name)(3, 5), torch.randn(4, 3)
        expected = shapes(module(value))
        with pytest.warns(UserWarning, match=rf"{name}: pack_weights\(\) has no effect: it is called for fake tensors"):
            module.pack_weights()
        with pytest.warns(UserWarning, match="has no effect"):
            module.freeze_weights()
        assert shapes(module(value)) == expected


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batched", (False, True))
def test_streams(name, batched):
    batch = (2,) if batched else ()
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = fastrnn.Stream(getattr(fastrnn, name)(3, 5, 2))
        assert shapes(stream(torch.randn(4, *batch, 3))) == (4, *batch, 5)
        for _ in range(2):
            assert shapes(stream.step(torch.randn(*batch, 3))) == (*batch, 5)
        state = (2, *batch, 5)
        assert shapes(stream.state) == ((state, state) if name == "LSTM" else state)


@pytest.mark.parametrize("packed_within", (False, True))
def test_of_weights_that_are_real(packed_within):
    """Packed before, they are taken for fake ones; packed within, they are not packed."""
    layer = fastrnn.GRU(3, 5)
    if not packed_within:
        layer.pack_weights()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        stream = fastrnn.Stream(layer, pack=packed_within)
        assert shapes(stream(torch.randn(4, 2, 3))) == (4, 2, 5)
        assert shapes(stream.step(torch.randn(2, 3))) == (2, 5)
    value = torch.randn(4, 2, 3)
    with torch.no_grad():
        reads = {row.weights for row in fastrnn.explain(layer, value).rows if row.pass_ == "forward"}
        assert ("packed ahead" in reads) == (not packed_within)
        torch.testing.assert_close(layer(value), fastrnn.to_torch(layer)(value))
