"""Multiply and shift the outputs of a module, channel by channel, by changing its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from arrow_quant_v2.torch.integer import IntegerConv, IntegerLinear
from arrow_quant_v2.torch.modules import PackedConv, PackedLinear, PackedWeight

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# Norms of other libraries whose forward code ends in weight * x (+ bias).
_NORM_CLASSES = frozenset(
    {"FP32LayerNorm", "RMSNorm", "LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
)


def output_channels(module: nn.Module) -> int:
    """Channels that scale_output can change; 0 where it cannot change the module at all.

    Exact classes: a subclass may do something else with its parameters.
    """
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, (PackedLinear, PackedConv)):
        packed = module.packed
        return packed.rows if packed.quant_axis == 0 and packed.shape[0] == packed.rows else 0
    if type(module) in _LAYERS:
        return int(weight.shape[0])
    if (type(module) in _NORMS or type(module).__name__ in _NORM_CLASSES) and weight is not None:
        return int(weight.shape[0]) if weight.dim() == 1 else 0
    return 0


def scale_output(module: nn.Module, factors: torch.Tensor, offsets: torch.Tensor | None = None) -> None:
    """Change ``module`` so that it yields factors * y + offsets where it yielded y.

    Args:
        module: one with output_channels.
        factors: [output_channels].
        offsets: [output_channels], of a module with a bias; None for zeros.
    """
    if isinstance(module, (PackedLinear, PackedConv)):
        _scale_packed(module.packed, factors)
        if isinstance(module, (IntegerLinear, IntegerConv)):
            module.forget_planes()
    else:
        weight: Any = module.weight
        weight.data = _times(weight.data, factors.reshape(-1, *[1] * (weight.dim() - 1)))
    bias: Any = getattr(module, "bias", None)
    if bias is not None:
        bias.data = _times(bias.data, factors, offsets)
    else:
        assert offsets is None
    correction: Any = getattr(module, "output_correction", None)
    if correction is not None:
        # gain * (factors * y + offsets) + shift' = factors * (gain * y + shift) + offsets
        rest = None if offsets is None else (1 - correction.gains) * offsets.to(correction.gains)
        correction.shifts = _times(correction.shifts, factors, rest)


def _times(value: torch.Tensor, factors: torch.Tensor, offsets: torch.Tensor | None = None) -> torch.Tensor:
    """value * factors + offsets, rounded once to the type of ``value``."""
    wide = torch.promote_types(value.dtype, torch.float32)
    result = value.to(wide) * factors.to(value.device, wide)
    if offsets is not None:
        result = result + offsets.to(value.device, wide)
    return result.to(value.dtype)


def _scale_packed(weight: PackedWeight, factors: torch.Tensor) -> None:
    """Scale rows: of an affine grid the steps, of a residual binary one the middle and both steps."""
    binary = weight.residual_scales.numel() > 0
    for name in ("scales", "zero_points", "residual_scales") if binary else ("scales",):
        grid: torch.Tensor = getattr(weight, name)
        setattr(weight, name, _times(grid.reshape(weight.rows, -1), factors[:, None]).reshape(grid.shape))
