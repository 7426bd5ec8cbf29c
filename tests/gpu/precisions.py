"""What the kernels can compute in, and torch's switch for TF32."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    name: str
    dtype: torch.dtype
    eps: float  # spacing at 1 of the numbers that products take
    allow_tf32: bool = False

    @property
    def on_chip(self):
        """Whether there are kernels that keep the weights there."""
        return self.dtype != torch.float64

    def switch(self):
        """For torch.nn and for fastrnn: both obey this."""
        torch.backends.cudnn.allow_tf32 = self.allow_tf32


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("f64", torch.float64, 2.0**-52),
        Precision("f32", torch.float32, 2.0**-23),
        Precision("tf32", torch.float32, 2.0**-10, allow_tf32=True),
        Precision("f16", torch.float16, 2.0**-10),
        Precision("bf16", torch.bfloat16, 2.0**-7),
    )
}
