"""Calibration in several passes over the same samples, where the second moments do not fit into memory at once."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arrow_quant_v2._native import core
from arrow_quant_v2.config import DiffusionQuantConfig
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
    than the limit by itself has a pass of its own. With calibration_stages every stage is a pass at least, and an input
    has a second matrix, its drift from the float model.
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
    stages = list(_stages(list(sizes), config.calibration_stages))  # in the order of modules, about that of execution
    if len(stages) > 1:
        sizes = {layer: 2 * size for layer, size in sizes.items()}
    keep_groups = all(sum(sizes[layer] for layer in stage) * groups <= limit for stage in stages)
    passes = [set(part) for stage in stages for part in ([stage] if keep_groups else _fitting(stage, sizes, limit))]
    passes[-1] |= layers - set(sizes)
    return PassPlan(keep_groups, passes)


def _stages(layers: Sequence[LayerKey], count: int) -> Iterator[Sequence[LayerKey]]:
    """About equally many layers each; at least one stage."""
    count = max(1, min(count, len(layers)))
    for i in range(count):
        yield layers[i * len(layers) // count : (i + 1) * len(layers) // count]


def _fitting(layers: Sequence[LayerKey], sizes: Mapping[LayerKey, int], limit: float) -> Iterator[list[LayerKey]]:
    part: list[LayerKey] = []
    for layer in layers:
        if part and sum(sizes[other] for other in part) + sizes[layer] > limit:
            yield part
            part = []
        part.append(layer)
    yield part


def _moment_bytes(module: nn.Module) -> int:
    return 4 * row_blocks(module) * row_width(module) ** 2


@torch.no_grad()
def quantize_in_place(
    models: Mapping[str, nn.Module],
    statistics: Any,
    bits: Mapping[LayerKey, int],
    config: DiffusionQuantConfig,
    modality: str,
) -> None:
    """Give the measured layers the weights that a run leaves of them, so that later passes see their errors."""
    options = json.dumps(config.to_dict())
    for (component, name), _ in statistics.layers():
        module: Any = models[component].get_submodule(name.removesuffix(".weight"))
        weight = (module.weight.movedim(1, 0) if isinstance(module, TRANSPOSED) else module.weight).float()
        matrix = weight.reshape(len(weight), -1).contiguous().numpy()
        rounded = core.round_layer(matrix, component, name, bits[component, name], statistics, modality, options)
        values = torch.from_numpy(rounded).reshape(weight.shape)
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
