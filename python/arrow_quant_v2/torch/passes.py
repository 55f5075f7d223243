"""Calibration in several passes over the same samples, where the second moments do not fit into memory at once."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from arrow_quant_v2._native import core
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.layer import quantize_layer
from arrow_quant_v2.torch.unfold import MEASURED, TRANSPOSED, row_blocks, row_width

# Second moments in memory at once. A fixed figure: the plan of passes, and with it the result, must not depend on what
# else runs on the machine.
DEFAULT_BYTES = 4_000_000_000
# The part of a user's memory limit that second moments may take; the model and the rows in flight need the rest.
LIMIT_SHARE = 0.5


# Component and weight tensor.
LayerKey = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class PassPlan:
    """``layers``: the weight tensors to measure in each pass. ``keep_groups``: a second moment per time group."""

    keep_groups: bool
    layers: list[set[LayerKey]]


def plan_passes(
    models: Mapping[str, nn.Module], layers: set[LayerKey], groups: int, config: DiffusionQuantConfig
) -> PassPlan:
    """One pass with a moment per time group where that fits, else moments merged over time in as few passes as fit.

    Layers that share an input are counted apart, since that is not known before the model runs. A layer that is larger
    than the limit by itself has a pass of its own.
    """
    limit = float(DEFAULT_BYTES)
    if config.max_memory_limit_mb is not None:
        limit = LIMIT_SHARE * config.max_memory_limit_mb * 1e6
    sizes = {
        (component, f"{name}.weight"): _moment_bytes(module)
        for component, model in models.items()
        for name, module in model.named_modules()
        if isinstance(module, MEASURED) and (component, f"{name}.weight") in layers
    }
    if sum(sizes.values()) * groups <= limit:
        return PassPlan(True, [layers])
    passes: list[set[LayerKey]] = [set()]
    filled = 0.0
    for layer, size in sizes.items():  # in the order of modules, which is about that of execution
        if passes[-1] and filled + size > limit:
            passes.append(set())
            filled = 0.0
        passes[-1].add(layer)
        filled += size
    passes[-1] |= layers - set(sizes)
    return PassPlan(False, passes)


def _moment_bytes(module: nn.Module) -> int:
    return 4 * row_blocks(module) * row_width(module) ** 2


@torch.no_grad()
def quantize_in_place(
    models: Mapping[str, nn.Module], statistics: Any, bits: Mapping[LayerKey, int], config: DiffusionQuantConfig
) -> None:
    """Give the measured layers the weights that rounding leaves of them, so that later passes see their errors."""
    for (component, name), numbers in statistics.layers():
        module: Any = models[component].get_submodule(name.removesuffix(".weight"))
        weight = module.weight.movedim(1, 0) if isinstance(module, TRANSPOSED) else module.weight
        parts = []
        for part, number in zip(weight.float().chunk(len(numbers)), numbers, strict=True):
            layer = quantize_layer(
                part.contiguous().numpy(),
                statistics.input(number).second_moment(),
                bits[component, name],
                config.group_size,
                rounds=config.rounding_rounds,
                dampening=config.dampening,
                num_threads=config.num_threads,
            )
            parts.append(torch.from_numpy(layer.dequantize()))
        values = torch.cat(parts)
        module.weight.copy_(values.movedim(0, 1) if isinstance(module, TRANSPOSED) else values)


class PartsFile:
    """A statistics file that is written pass by pass to a temporary folder, which goes with this object."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix=".arrow_quant-")
        self._cleanup = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = pathlib.Path(folder) / "statistics.parquet"
        self._writer = core.StatisticsWriter(os.fspath(self.path))

    def append(self, statistics: Any) -> None:
        self._writer.append(statistics)

    def close(self, facts: str, sensitivity: list[float]) -> Any:
        """The finished file's statistics."""
        self._writer.close(facts, sensitivity)
        return core.StatisticsFile(os.fspath(self.path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Copy the finished file; ``path`` appears whole or not at all."""
        target = pathlib.Path(path)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            shutil.copyfile(self.path, unfinished)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
