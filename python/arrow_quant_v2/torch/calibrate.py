"""Run a model over calibration samples and keep what its layers see."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.calibration import CALIBRATION_FILE, model_fingerprint, quantized_layers, time_boundaries
from arrow_quant_v2.calibration_data import DEFAULT_MAX_BAD_ROWS
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError, UnsupportedModelError
from arrow_quant_v2.safetensors_source import SafetensorsSource, SourceTensor
from arrow_quant_v2.torch.call_time import TimeFunction
from arrow_quant_v2.torch.collect import ActivationCollector, call_arguments
from arrow_quant_v2.torch.data_sources import DataSource, data_calls
from arrow_quant_v2.torch.load import build_model
from arrow_quant_v2.torch.synthetic import find_mask_token, load_scheduler, self_sampling

Progress = Callable[[str, float], None]

# With time_grouping "auto", statistics are kept for so many groups for each that may be made of them.
FINER_GROUPS = 4
MOST_GROUPS = 100
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
    run = _Run(model, model_path, config, sampling.time_span, sampling.mask_token_id)
    count = config.calibration_samples
    done, calls = 0, -(-count // 32) * sampling.steps
    with run.collector, torch.inference_mode():
        for ids in sampling.drive(model, count, config.seed):
            run.collector.sample_ids = ids
            if progress is not None:
                progress(f"calibrating: sample {ids[-1] + 1} of {count}", done / calls)
            done += 1
    samples = {"source": "synthetic", "count": count, "steps": sampling.steps, "seed": config.seed}
    return run.collected("synthetic", samples, f"the model's own sampling, {count} samples of {sampling.steps} steps")


def collect_data(
    model_path: str | os.PathLike[str], source: DataSource, config: DiffusionQuantConfig, progress: Progress | None
) -> Collected:
    """Calibrate a model on real data: text that is masked, or images, sounds and latents that are noised."""
    model = load_float_model(model_path)
    data = data_calls(model, pathlib.Path(model_path), source, config.calibration_samples, config.seed)
    run = _Run(model, model_path, config, data.time_span, data.mask_token_id)
    count = run.forward(data.calls, config.calibration_samples, progress)
    samples = {
        "source": data.name, "count": count, "seed": config.seed, "skipped_rows": len(data.bad),
        "first_skipped": data.bad.first, "masked": source.mask if data.mask_token_id is not None else None,
    }  # fmt: skip
    return run.collected("activations", samples, f"{count} samples of {data.name}")


def collect_samples(
    model_path: str | os.PathLike[str],
    samples: Iterable[Any],
    config: DiffusionQuantConfig,
    progress: Progress | None = None,
    time_span: float | None = None,
    time_of: TimeFunction | None = None,
) -> Collected:
    """Calibrate a model on forward calls that the caller gives."""
    model = load_float_model(model_path)
    mask_token_id = find_mask_token(model, pathlib.Path(model_path))
    if time_span is None:
        span = 1.0 if mask_token_id is not None else load_scheduler(pathlib.Path(model_path)).config.num_train_timesteps
        time_span = float(span)
    if not time_span > 0:
        raise ConfigurationError(f"time_span is {time_span}. Give a number above 0.")
    run = _Run(model, model_path, config, time_span, mask_token_id, time_of)
    count = run.forward(samples, config.calibration_samples, progress)
    return run.collected("activations", {"source": "samples", "count": count, "seed": config.seed}, f"{count} samples")


class _Run:
    """A collector for the layers of a model that a run of quantization quantizes."""

    def __init__(
        self,
        model: nn.Module,
        model_path: str | os.PathLike[str],
        config: DiffusionQuantConfig,
        time_span: float,
        mask_token_id: int | None,
        time_of: TimeFunction | None = None,
    ) -> None:
        self.model = model
        self._model_path = model_path
        self._layers = {name for _, name in quantized_layers(model_path, config)}
        boundaries = seen_boundaries(time_span, config)
        self.collector = ActivationCollector(
            model,
            boundaries,
            layers=self._layers,
            time_of=time_of,
            mask_token_id=mask_token_id,
            keep_groups=group_moments_fit(model, self._layers, len(boundaries) - 1),
            seed=config.seed,
            num_threads=config.num_threads,
        )

    def forward(self, calls: Iterable[Any], count: int, progress: Progress | None) -> int:
        """Run at most ``count`` samples; how many there were. Raises ConfigurationError when there is none."""
        with self.collector, torch.inference_mode():
            for call in calls:
                args, kwargs = call_arguments(call)
                self.model(*args, **kwargs)
                done = self.collector.samples_seen
                if progress is not None:
                    progress(f"calibrating: sample {done} of {count}", min(1.0, done / count))
                if done >= count:
                    break
        if self.collector.samples_seen == 0:
            raise ConfigurationError("calibration: there are no samples. Give at least one, or calibration='none'.")
        return self.collector.samples_seen

    def collected(self, kind: str, samples: dict[str, Any], description: str) -> Collected:
        facts = {
            "kind": kind,
            "model_fingerprint": model_fingerprint(self._model_path),
            "samples": samples,
            "description": description,
            "unreached": sorted(self._layers - self.collector.reached),
        }
        return Collected(self.collector.statistics, facts, description)


def seen_boundaries(time_span: float, config: DiffusionQuantConfig) -> list[float]:
    """The time groups that statistics are kept for: those of the configuration, or finer ones to choose cuts from."""
    groups = config.num_time_groups
    if config.time_grouping == "auto":
        groups = min(FINER_GROUPS * groups, MOST_GROUPS)
    return time_boundaries(time_span, groups, int(time_span) if time_span > 1 else 0)


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
    *,
    data: Any = None,
    samples: Iterable[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    columns: Mapping[str, str] | str | None = None,
    split: str | None = None,
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS,
    mask: bool = True,
    time_span: float | None = None,
    time_of: TimeFunction | None = None,
    num_inference_steps: int | None = None,
) -> pathlib.Path:
    """Write the activation statistics of a model to a Parquet file, which later runs of quantization find.

    Args:
        model_path: a model's folder with config.json; a diffusers pipeline where prompts are given.
        output: default activation_statistics.parquet in the model's folder.
        config: calibration_samples, num_time_groups, seed, and which layers are quantized.
        data: real data; see arrow_quant_v2.calibration_data.open_data.
        samples: arguments of forward calls, each a mapping, a tuple or a tensor; at most calibration_samples.
        prompts: texts, or classes, for a diffusers pipeline; see arrow_quant_v2.torch.pipeline.calibrate_pipeline.
        columns, split, max_bad_rows, mask: of data; see arrow_quant_v2.torch.data_sources.DataSource.
        time_span: of samples: times lie in [0, time_span]; default that of the model's scheduler, 1 for a masked
            language model.
        time_of: of samples; (args, kwargs) -> time of a call, where its arguments do not tell it.
        num_inference_steps: of prompts; default the pipeline's.

    With none of data, samples and prompts the model's own sampling is used. Returns the file's path.

    Raises:
        ConfigurationError: two sources, an empty one, or an output that is a folder.
        CorruptFileError: more than max_bad_rows rows that cannot be used.
        UnsupportedModelError, MetadataError, ModelNotFoundError: the model cannot be run so.
    """
    config = config or DiffusionQuantConfig()
    root = pathlib.Path(model_path)
    path = pathlib.Path(output) if output is not None else (root if root.is_dir() else root.parent) / CALIBRATION_FILE
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder. Name the file to write.", file=str(path))
    if sum(source is not None for source in (data, samples, prompts)) > 1:
        raise ConfigurationError("two of data, samples and prompts are given. Give one.")
    if prompts is not None:
        from arrow_quant_v2.torch.pipeline import collect_pipeline

        collected = collect_pipeline(model_path, prompts, config, progress_callback, num_inference_steps)
    elif data is not None:
        source = DataSource(data, columns, split, max_bad_rows, mask)
        collected = collect_data(model_path, source, config, progress_callback)
    elif samples is not None:
        collected = collect_samples(model_path, samples, config, progress_callback, time_span, time_of)
    else:
        collected = sample_model(model_path, config, progress_callback)
    collected.save(path)
    return path
