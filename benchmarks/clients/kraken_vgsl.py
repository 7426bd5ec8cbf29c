# /// script
# dependencies = ["kraken==7.1.1", "torchvision==0.28.0"]
# ///
"""kraken: its default recogniser from a VGSL spec, three packed bidirectional LSTMs, learning CTC of striped lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from kraken.lib.vgsl import TorchVGSLModel
from torch import Tensor, nn

# As kraken's, with a third of the columns' height and fewer channels.
SPEC = (
    "[1,24,0,1 Cr3,13,16 Do0.1,2 Mp2,2 Cr3,13,16 Do0.1,2 Mp2,2 Cr3,9,32 Do0.1,2 Mp2,2 Cr3,9,32 Do0.1,2 "
    "S1(1x0)1,3 Lbx200 Do0.1,2 Lbx200 Do0.1,2 Lbx200 Do O1c20]"
)
BATCH, HEIGHT, SYMBOLS, LENGTH, WIDTH, UPDATES = 4, 24, 20, 12, 32, 10


def lines(glyphs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, how wide each is, and its symbols."""
    symbols = torch.randint(1, SYMBOLS, (BATCH, LENGTH))
    images = glyphs[symbols].permute(0, 2, 1, 3).reshape(BATCH, 1, HEIGHT, LENGTH * WIDTH)
    widths = torch.full((BATCH,), LENGTH * WIDTH) - torch.arange(BATCH) * 8
    return images + 0.1 * torch.rand_like(images), widths, symbols


def prepare(impl: Impl) -> Train:
    with impl.patched():
        model = TorchVGSLModel(vgsl=SPEC)  # it draws the weights anew, of what is an nn.LSTM
    impl.check(model)
    first = next(module for module in model.modules() if isinstance(module, nn.LSTM))
    assert (first.bias_ih_l0[first.hidden_size : 2 * first.hidden_size] == 1).all()
    glyphs = torch.rand(SYMBOLS, HEIGHT, WIDTH).round()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def update() -> float:
        images, widths, symbols = lines(glyphs)
        scores, lengths = model(images, widths)
        likely = scores.squeeze(2).permute(2, 0, 1).log_softmax(2)
        loss = F.ctc_loss(likely, symbols, lengths, torch.full((BATCH,), LENGTH), zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
