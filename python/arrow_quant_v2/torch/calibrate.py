"""Run a model over calibration samples and keep what its layers see."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.calibration import CALIBRATION_FILE, detected_modality, model_fingerprint, quantized_layers
from arrow_quant_v2.calibration_data import DEFAULT_MAX_BAD_ROWS
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError, UnsupportedModelError
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.safetensors_source import SafetensorsSource, SourceTensor
from arrow_quant_v2.torch.call_time import TimeFunction
from arrow_quant_v2.torch.collect import ActivationCollector, call_arguments
from arrow_quant_v2.torch.data_sources import DataSource, data_calls
from arrow_quant_v2.torch.load import build_model
from arrow_quant_v2.torch.sensitivity import measure_sensitivity
from arrow_quant_v2.torch.statistics_run import Collected, StatisticsRun
from arrow_quant_v2.torch.synthetic import BATCH, SelfSampling, find_mask_token, load_scheduler, self_sampling


def load_float_model(path: str | os.PathLike[str], allow_remote_code: bool = False) -> nn.Module:
    """The unquantized model of a folder with config.json, float32, in eval mode; code from the folder is run only when
    it is allowed.

    Raises MetadataError, UnsupportedModelError, ModelNotFoundError.
    """
    root = pathlib.Path(path)
    root = root if root.is_dir() else root.parent
    model = build_model(root, allow_remote_code)
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
    model_path: str | os.PathLike[str], config: DiffusionQuantConfig, progress: ProgressCallback | None = None
) -> Collected:
    """Calibrate a model on its own sampling: denoising trajectories, or unmasking from full mask."""
    model = load_float_model(model_path, config.allow_remote_code)
    sampling = self_sampling(model, pathlib.Path(model_path))
    run = _Run(model, model_path, config, sampling.time_span, sampling.mask_token_id)
    count = config.calibration_samples
    run.sample(sampling, count, config.seed, progress)
    samples = {"source": "synthetic", "count": count, "steps": sampling.steps, "seed": config.seed}
    return run.collected("synthetic", samples, f"the model's own sampling, {count} samples of {sampling.steps} steps")


def collect_data(
    model_path: str | os.PathLike[str],
    source: DataSource,
    config: DiffusionQuantConfig,
    progress: ProgressCallback | None,
) -> Collected:
    """Calibrate a model on real data: text that is masked, or images, sounds and latents that are noised."""
    model = load_float_model(model_path, config.allow_remote_code)
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
    progress: ProgressCallback | None = None,
    time_span: float | None = None,
    time_of: TimeFunction | None = None,
) -> Collected:
    """Calibrate a model on forward calls that the caller gives."""
    model = load_float_model(model_path, config.allow_remote_code)
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
    """Statistics for the layers of one model that a run of quantization quantizes."""

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
        bits = {("", name): bits for (_, name), bits in quantized_layers(model_path, config).items()}
        modality = detected_modality(model_path, config)
        self._run = StatisticsRun({"": model}, bits, time_span, config, time_of, mask_token_id, modality)
        # Before any weight is quantized.
        self._sensitivity: list[float] = []
        if config.time_weighting == "sensitivity":
            sampling = self_sampling(model, pathlib.Path(model_path))
            self._sensitivity = measure_sensitivity(model, sampling, self._run.boundaries, config.seed)

    def forward(self, calls: Iterable[Any], count: int, progress: ProgressCallback | None) -> int:
        """Run at most ``count`` samples; how many there were. Raises ConfigurationError when there is none."""
        calls = itertools.islice(calls, count)  # of at least one sample each
        if self._run.passes > 1:
            calls = list(calls)  # every pass sees them

        def drive(collectors: Sequence[ActivationCollector], report: ProgressCallback | None) -> int:
            (collector,) = collectors
            for call in calls:
                args, kwargs = call_arguments(call)
                self.model(*args, **kwargs)
                done = collector.samples_seen
                if report is not None:
                    report(f"calibrating: sample {done} of {count}", min(1.0, done / count))
                if done >= count:
                    break
            return collector.samples_seen

        seen = self._run.run(drive, progress)
        if seen == 0:
            raise ConfigurationError("calibration: there are no samples. Give at least one, or calibration='none'.")
        return seen

    def sample(self, sampling: SelfSampling, count: int, seed: int, progress: ProgressCallback | None) -> None:
        """Run the model's own sampling."""
        calls = -(-count // BATCH) * sampling.steps

        def drive(collectors: Sequence[ActivationCollector], report: ProgressCallback | None) -> int:
            for done, ids in enumerate(sampling.drive(self.model, count, seed)):
                collectors[0].sample_ids = ids
                if report is not None:
                    report(f"calibrating: sample {ids[-1] + 1} of {count}", done / calls)
            return count

        self._run.run(drive, progress)

    def collected(self, kind: str, samples: dict[str, Any], description: str) -> Collected:
        facts = {
            "kind": kind,
            "model_fingerprint": model_fingerprint(self._model_path),
            "samples": samples,
            "description": description,
        }
        return self._run.collected(facts, self._sensitivity)


def calibrate_model(
    model_path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    config: DiffusionQuantConfig | None = None,
    progress_callback: ProgressCallback | None = None,
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
        columns: of data, by what they hold: {"image": "jpg"}; see arrow_quant_v2.torch.data_sources.DataSource.
        split: of a data set by name.
        max_bad_rows: of data that cannot be used; more are an error.
        mask: mask text, as the model meets it; False is for comparisons.
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
