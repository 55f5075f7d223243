"""Run a model over calibration samples and keep what its layers see."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.calibration import CALIBRATION_FILE, model_fingerprint, quantized_layers, time_boundaries
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError, UnsupportedModelError
from arrow_quant_v2.safetensors_source import SafetensorsSource, SourceTensor
from arrow_quant_v2.torch.collect import ActivationCollector
from arrow_quant_v2.torch.load import build_model
from arrow_quant_v2.torch.synthetic import SelfSampling, self_sampling

Progress = Callable[[str, float], None]

# With time_grouping "auto", statistics are kept for so many groups for each that may be made of them.
FINER_GROUPS = 4
# Second moments per time group up to this; beyond it one for all groups.
GROUP_MEMORY_BYTES = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Collected:
    """Statistics and the facts that go into their file."""

    statistics: Any
    facts: dict[str, Any]
    description: str

    def save(self, path: str | os.PathLike[str]) -> None:
        self.statistics.save(os.fspath(path), json.dumps(self.facts))


def load_float_model(path: str | os.PathLike[str]) -> nn.Module:
    """The unquantized model of a folder with config.json, float32, in eval mode; no code from the folder is run.

    Raises MetadataError, UnsupportedModelError, ModelNotFoundError.
    """
    root = pathlib.Path(path)
    root = root if root.is_dir() else root.parent
    model = build_model(root)
    source = SafetensorsSource(pathlib.Path(path))
    if len({component for component, _ in source.names()}) != 1:
        raise UnsupportedModelError(
            f"{root}: a pipeline is sampled with prompts. Give them, or a calibration file.", file=str(root)
        )
    _fill(model.float(), source, root)
    return model.eval()


@torch.no_grad()
def _fill(model: nn.Module, source: SafetensorsSource, root: pathlib.Path) -> None:
    """Copy the source's tensors into the model; tied ones may have any of their names."""
    slots = model.state_dict()
    filled = set()
    for key in sorted(source.names()):
        slot, tensor = slots.get(key[1]), source.read(key)
        if slot is None or tuple(slot.shape) != tensor.shape:
            found = "none" if slot is None else tuple(slot.shape)
            raise ShapeMismatchError(f"{root}: tensor '{key[1]}': {tensor.shape} where the model has {found}")
        slot.copy_(tensor_of_source(tensor))
        filled.add(slot.data_ptr())
    missing = [name for name, slot in slots.items() if slot.numel() and slot.data_ptr() not in filled]
    if missing:
        raise ShapeMismatchError(f"{root}: the checkpoint lacks {missing[:3]}, which the model of config.json has")


def tensor_of_source(tensor: SourceTensor) -> torch.Tensor:
    """A tensor of a checkpoint; floating-point ones as float32."""
    dtype: torch.dtype = getattr(torch, tensor.dtype)
    if dtype.is_floating_point:
        return torch.from_numpy(tensor.to_float32())
    return torch.from_numpy(tensor.data.copy()).view(dtype).reshape(tensor.shape)


def sample_model(
    model_path: str | os.PathLike[str], config: DiffusionQuantConfig, progress: Progress | None = None
) -> Collected:
    """Calibrate a model on its own sampling: denoising trajectories, or unmasking from full mask."""
    model = load_float_model(model_path)
    sampling = self_sampling(model, pathlib.Path(model_path))
    layers = {name for _, name in quantized_layers(model_path, config)}
    count = config.calibration_samples
    boundaries = sampling_boundaries(sampling, config)
    collector = ActivationCollector(
        model,
        boundaries,
        layers=layers,
        mask_token_id=sampling.mask_token_id,
        keep_groups=group_moments_fit(model, layers, len(boundaries) - 1),
        seed=config.seed,
        num_threads=config.num_threads,
    )
    done, calls = 0, -(-count // 32) * sampling.steps
    with collector, torch.inference_mode():
        for ids in sampling.drive(model, count, config.seed):
            collector.sample_ids = ids
            if progress is not None:
                progress(f"calibrating: sample {ids[-1] + 1} of {count}", done / calls)
            done += 1
    description = f"the model's own sampling, {count} samples of {sampling.steps} steps"
    facts = {
        "kind": "synthetic",
        "model_fingerprint": model_fingerprint(model_path),
        "samples": {"source": "synthetic", "count": count, "steps": sampling.steps, "seed": config.seed},
        "description": description,
        "unreached": sorted(layers - collector.reached),
    }
    return Collected(collector.statistics, facts, description)


def sampling_boundaries(sampling: SelfSampling, config: DiffusionQuantConfig) -> list[float]:
    """The time groups that statistics are kept for: those of the configuration, or finer ones to choose cuts from."""
    groups = config.num_time_groups
    if config.time_grouping == "auto":
        groups = max(groups, min(sampling.steps, FINER_GROUPS * groups))
    timesteps = int(sampling.time_span) if sampling.time_span > 1 else 0
    return time_boundaries(sampling.time_span, groups, timesteps)


def group_moments_fit(model: nn.Module, layers: set[str], groups: int) -> bool:
    """Whether a second moment per time group fits the budget, counting layers that share an input apart."""
    total = 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if f"{name}.weight" in layers and isinstance(weight, torch.Tensor):
            total += (weight.numel() // max(1, weight.shape[0])) ** 2 * 4 * groups
    return total <= GROUP_MEMORY_BYTES


def calibrate_model(
    model_path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    config: DiffusionQuantConfig | None = None,
    progress_callback: Progress | None = None,
) -> pathlib.Path:
    """Write the activation statistics of a model's own sampling to a Parquet file, which later runs find.

    ``output``: default activation_statistics.parquet in the model's folder. Returns the file's path.
    """
    config = config or DiffusionQuantConfig()
    root = pathlib.Path(model_path)
    path = pathlib.Path(output) if output is not None else (root if root.is_dir() else root.parent) / CALIBRATION_FILE
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder. Name the file to write.", file=str(path))
    sample_model(model_path, config, progress_callback).save(path)
    return path
