"""Calibrate the denoisers of a diffusers pipeline while it works on prompts."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.calibration import CALIBRATION_FILE, detected_modality, model_fingerprint, quantized_layers
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError, CorruptFileError, UnsupportedModelError
from arrow_quant_v2.model_file import read_json
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.call_time import call_times
from arrow_quant_v2.torch.collect import ActivationCollector
from arrow_quant_v2.torch.passes import LayerKey
from arrow_quant_v2.torch.statistics_run import Collected, StatisticsRun

_INDEX = "model_index.json"


def calibrate_pipeline(
    pipeline: Any,
    prompts: Sequence[Any],
    output: str | os.PathLike[str] | None = None,
    config: DiffusionQuantConfig | None = None,
    progress_callback: ProgressCallback | None = None,
    *,
    model_path: str | os.PathLike[str] | None = None,
    num_inference_steps: int | None = None,
) -> pathlib.Path:
    """Write the activation statistics of a pipeline's denoisers to one Parquet file.

    Args:
        pipeline: a pipeline's folder, or a diffusers pipeline that was loaded from ``model_path``.
        prompts: one image each, at most config.calibration_samples: texts; class numbers for a pipeline of classes;
            mappings of the pipeline's own arguments. A pipeline that takes neither makes one image for each.
        output: default activation_statistics.parquet in the pipeline's folder.
        config: calibration_samples, num_time_groups, seed, and which layers are quantized.
        progress_callback: called as (message, fraction in [0, 1]).
        model_path: folder of a pipeline that is given as an object.
        num_inference_steps: default the pipeline's.

    Raises:
        ConfigurationError: no prompts, or a pipeline without its folder.
        UnsupportedModelError: a folder that is no pipeline, or one with code of its own.
    """
    if isinstance(pipeline, (str, os.PathLike)):
        model_path, loaded = pipeline, None
    else:
        loaded = pipeline
        model_path = model_path or str(getattr(getattr(pipeline, "config", None), "_name_or_path", ""))
        if not model_path or not pathlib.Path(model_path).is_dir():
            raise ConfigurationError("the pipeline's folder is not known. Give model_path, the one to quantize.")
    collected = collect_pipeline(
        model_path, prompts, config or DiffusionQuantConfig(), progress_callback, num_inference_steps, loaded
    )
    path = pathlib.Path(output) if output is not None else pathlib.Path(model_path) / CALIBRATION_FILE
    collected.save(path)
    return path


def collect_pipeline(
    model_path: str | os.PathLike[str],
    prompts: Sequence[Any],
    config: DiffusionQuantConfig,
    progress: ProgressCallback | None = None,
    num_inference_steps: int | None = None,
    pipeline: Any = None,
) -> Collected:
    """Run the prompts; see calibrate_pipeline. Each is one sample, whatever guidance makes of it."""
    prompts = list(prompts)[: config.calibration_samples]
    if not prompts:
        raise ConfigurationError("calibration: there are no prompts. Give at least one.")
    bits = _layers(model_path, config)
    components = sorted({component for component, _ in bits})
    if pipeline is None:
        pipeline = load_pipeline(pathlib.Path(model_path))
    calls = [_call(pipeline, prompt, num_inference_steps) for prompt in prompts]
    models = {component: getattr(pipeline, component) for component in components}
    span = time_span(pipeline, components, calls[0])
    run = StatisticsRun(models, bits, span, config, modality=detected_modality(model_path, config))

    def drive(collectors: Sequence[ActivationCollector], report: ProgressCallback | None) -> int:
        for number, call in enumerate(calls):
            if report is not None:
                report(f"calibrating: prompt {number + 1} of {len(calls)}", number / len(calls))
            for collector in collectors:
                collector.sample_ids = [number]
            pipeline(**call, **_noise(pipeline, config.seed + number))
        return len(calls)

    run.run(drive, progress)
    facts = {
        "kind": "activations",
        "model_fingerprint": model_fingerprint(model_path),
        "samples": {
            "source": "prompts", "count": len(prompts), "seed": config.seed, "skipped_rows": 0,
            "steps": num_inference_steps, "components": components,
        },
        "description": f"{type(pipeline).__name__} with {len(prompts)} prompts",
    }  # fmt: skip
    return run.collected(facts, [])


def load_pipeline(path: pathlib.Path) -> Any:
    """The diffusers pipeline of a folder, float32, from safetensors only; code in the folder is never run."""
    refuse_own_code(path)
    diffusers = importlib.import_module("diffusers")
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(path), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
        )
    except Exception as error:  # diffusers raises many kinds; the cause is named
        raise CorruptFileError.compose(f"the pipeline cannot be loaded: {error}", file=str(path)) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def refuse_own_code(path: pathlib.Path) -> None:
    """Raise UnsupportedModelError unless every class of model_index.json is one of diffusers or transformers."""
    index = path / _INDEX
    if not index.exists():
        raise UnsupportedModelError.compose(
            f"no {_INDEX}, so this is no pipeline", file=str(path), remedy="Prompts are for pipelines; give data."
        )
    pipelines = importlib.import_module("diffusers.pipelines")
    for name, value in read_json(index).items():
        library = value[0] if isinstance(value, list) and len(value) == 2 else None
        known = library in (None, "diffusers", "transformers") or hasattr(pipelines, str(library))
        # For `_class_name` a list names a file of the folder.
        if not known or (name == "_class_name" and not isinstance(value, str)):
            raise UnsupportedModelError.compose(
                f"'{name}' is {value}, a class of the folder's own code, which is never run",
                file=str(index),
                remedy="Load the pipeline yourself and give it to calibrate_pipeline.",
            )


def time_span(pipeline: Any, components: Sequence[str], call: Mapping[str, Any]) -> float:
    """The end of the times that the denoisers are given: 1 where the noisiest step's time is at most 1, as with Flux,
    else the scheduler's training steps. The pipeline is run up to its first step."""
    times: list[float] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = call_times(module, args, kwargs, None)
        times.append(float(found.max()) if found is not None else 0.0)
        raise _FirstStepError

    handles = [getattr(pipeline, c).register_forward_pre_hook(stop, with_kwargs=True) for c in components]
    try:
        with contextlib.suppress(_FirstStepError), torch.inference_mode():
            pipeline(**call)
    finally:
        for handle in handles:
            handle.remove()
    steps = float(pipeline.scheduler.config.num_train_timesteps)
    return 1.0 if times and times[0] <= 1.0 else steps


class _FirstStepError(Exception):
    """Ends a pipeline's run at its first step."""


def _layers(model_path: str | os.PathLike[str], config: DiffusionQuantConfig) -> dict[LayerKey, int]:
    bits = quantized_layers(model_path, config)
    if not bits or any(not component for component, _ in bits):
        raise UnsupportedModelError.compose(
            "this is no pipeline with layers to quantize",
            file=os.fspath(model_path),
            remedy="Prompts are for pipelines; give data or samples.",
        )
    return bits


def _call(pipeline: Any, prompt: Any, steps: int | None) -> dict[str, Any]:
    """Arguments of the pipeline for one prompt; latents stay latents where the pipeline can leave them."""
    parameters = inspect.signature(pipeline.__call__).parameters
    call: dict[str, Any] = {}
    if steps is not None and "num_inference_steps" in parameters:
        call["num_inference_steps"] = steps
    if "output_type" in parameters:
        call["output_type"] = "latent" if "prompt" in parameters else "np"
    return {**call, **dict(_prompt_arguments(parameters, prompt))}


def _prompt_arguments(parameters: Mapping[str, Any], prompt: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(prompt, Mapping):
        yield from prompt.items()
    elif "prompt" in parameters:
        yield "prompt", str(prompt)
    elif "class_labels" in parameters:
        try:
            yield "class_labels", [int(prompt)]
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"prompt {prompt!r}: this pipeline takes class numbers. Give whole numbers."
            ) from error
    elif "batch_size" in parameters:
        yield "batch_size", 1


def _noise(pipeline: Any, seed: int) -> dict[str, torch.Generator]:
    takes = "generator" in inspect.signature(pipeline.__call__).parameters
    return {"generator": torch.Generator().manual_seed(seed)} if takes else {}
