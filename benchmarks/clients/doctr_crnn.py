# /// script
# dependencies = ["python-doctr==1.1.0", "torchvision==0.28.0"]
# ///
"""docTR: CRNN on a MobileNet, two bidirectional LSTM layers, learning to read numbers that Pillow draws."""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
from adopted import Impl, Train, main
from doctr.models import crnn_mobilenet_v3_small
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BATCH, HEIGHT, WIDTH, UPDATES = 16, 32, 128, 10


def words() -> tuple[Tensor, list[str]]:
    texts = [str(random.randrange(10**6)) for _ in range(BATCH)]
    images = []
    for text in texts:
        image = Image.new("RGB", (WIDTH, HEIGHT), "white")
        ImageDraw.Draw(image).text((4, 4), text, "black", ImageFont.load_default(20))
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
    return torch.stack(images), texts


def prepare(impl: Impl) -> Train:
    model = crnn_mobilenet_v3_small(pretrained=False, pretrained_backbone=False, vocab="0123456789")
    impl.convert(model)
    impl.check(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def update() -> float:
        images, texts = words()
        loss = model(images, texts)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        model.train()
        losses = [update() for _ in range(UPDATES)]
        reader = copy.deepcopy(model).eval()
        impl.check(reader)
        with torch.inference_mode():
            assert len(reader(words()[0])["preds"]) == BATCH
        return losses

    return train


if __name__ == "__main__":
    main(prepare)
