"""For the clients that train with lightning."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning

# What keeps a run quiet and its files away.
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Losses(lightning.Callback):
    """Records the loss of each step. The copies that a project makes of its callbacks share one record."""

    values: list[float] = []  # noqa: RUF012  (shared on purpose)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.values.append(float(outputs["loss"]))
