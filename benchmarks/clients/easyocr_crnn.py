# /// script
# dependencies = ["easyocr==1.7.2", "torchvision==0.28.0"]
# ///
"""EasyOCR: its second recognizer, convolutions and two bidirectional LSTMs, reading lines of made-up letters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from easyocr.model.vgg_model import Model

LETTERS, LENGTH, HEIGHT, WIDTH, BATCH, UPDATES = 40, 10, 64, 24, 4, 10


def prepare(impl: Impl) -> Train:
    model = Model(input_channel=1, output_channel=256, hidden_size=256, num_class=LETTERS + 1)
    impl.convert(model)
    impl.check(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    shapes = F.interpolate(torch.rand(LETTERS, 1, 8, 4).round(), size=(HEIGHT, WIDTH))[:, 0]
    lengths = torch.full((BATCH,), LENGTH)

    def update() -> float:
        text = torch.randint(LETTERS, (BATCH, LENGTH))
        lines = shapes[text].permute(0, 2, 1, 3).reshape(BATCH, 1, HEIGHT, LENGTH * WIDTH)
        scores = model(lines + 0.2 * torch.randn_like(lines), text).log_softmax(-1).swapaxes(0, 1)
        steps = torch.full((BATCH,), len(scores))
        loss = F.ctc_loss(scores, text + 1, steps, lengths, zero_infinity=True)  # 0 is the blank
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return loss.item()

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
