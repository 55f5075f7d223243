"""Gains and biases of a layer's outputs per time group, applied by the layer to what its quantized weight gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from arrow_quant_v2.model_file import StoredTensor
from arrow_quant_v2.torch.time_state import groups_at


class OutputCorrection(nn.Module):
    """y -> gain * y + shift by the current time, for a layer whose output has channels on ``axis``.

    What is stored is for the output without the layer's bias b; gain * (y - b) + beta + b is the same.

    Args:
        stored: a quantized weight with time_beta.
        bias: of the layer, [outputs], or None.
        axis: of output channels in the layer's output.
    """

    gains: torch.Tensor  # [groups, outputs]
    shifts: torch.Tensor  # [groups, outputs]

    def __init__(self, stored: StoredTensor, bias: torch.Tensor | None, axis: int) -> None:
        super().__init__()
        groups = len(stored.correction_boundaries) - 1
        betas = torch.from_numpy(stored.time_beta.copy()).reshape(groups, -1)
        gains = torch.ones_like(betas)
        if stored.time_gamma.size:
            gains = torch.from_numpy(stored.time_gamma.copy()).reshape(groups, -1)
        shifts = betas if bias is None else betas + (1 - gains) * bias.detach().float().cpu()
        self.name = stored.name
        self.axis = axis
        self.boundaries = torch.tensor(stored.correction_boundaries[1:-1], dtype=torch.float64)
        self.register_buffer("gains", gains, persistent=False)
        self.register_buffer("shifts", shifts, persistent=False)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        batched = y.dim() > (1 if self.axis == -1 else -self.axis)
        groups = groups_at(self.boundaries, y.shape[0] if batched else 1, self.name).to(self.gains.device)
        shape = [len(groups) if batched else 1, *[1] * (y.dim() - 1)]
        if not batched:
            shape = [1] * y.dim()
        shape[self.axis] = y.shape[self.axis]
        gains, shifts = self.gains[groups].reshape(shape), self.shifts[groups].reshape(shape)
        return (y * gains + shifts).to(y.dtype)


def add_correction(module: nn.Module, stored: StoredTensor) -> None:
    """Make ``module``, which has the weight ``stored``, correct its outputs."""
    bias: Any = getattr(module, "bias", None)
    axis = -1 if len(stored.shape) == 2 else 1 - len(stored.shape)
    correction = OutputCorrection(stored, bias, axis)
    module.add_module("output_correction", correction)
    module.register_forward_hook(_correct)


def _correct(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    corrected: torch.Tensor = module.output_correction(output)
    return corrected
