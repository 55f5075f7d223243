"""Folding of the equalization that a quantized file brings with it."""

from __future__ import annotations

import logging

import torch
from torch import nn

from arrow_quant_v2.torch.folding.fold import fold
from arrow_quant_v2.torch.integer import IntegerConv, IntegerLinear

_log = logging.getLogger("arrow_quant_v2")


def fold_equalization(model: nn.Module) -> set[str]:
    """Fold the column scales of the model's integer layers into their producers where that can be done.

    Returns the names of these layers; the others go on multiplying their inputs.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (IntegerLinear, IntegerConv)) and module.packed.column_scales.numel()
    }
    found = {name: channel_scales(layer) for name, layer in layers.items()}
    folded = fold(model, {name: scales for name, scales in found.items() if scales is not None})
    for name in folded:
        layers[name].take_scaled_input()
    if layers:
        _log.info("%d of %d equalized layers are folded into their producers", len(folded), len(layers))
    return folded


def channel_scales(layer: IntegerLinear | IntegerConv) -> torch.Tensor | None:
    """Factors of the layer's input channels, or None where the positions of its kernel have factors of their own."""
    by_tap = layer.packed.column_scales.reshape(-1, layer.taps)
    if not torch.equal(by_tap, by_tap[:, :1].expand_as(by_tap)):
        return None
    return by_tap[:, 0].repeat(layer.inputs)
