"""Evaluate a quantized model by what it makes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from arrow_quant_v2.calibration_data import DEFAULT_MAX_BAD_ROWS
from arrow_quant_v2.progress import ProgressCallback, StopQuestion, guarded, part_of
from arrow_quant_v2.torch.call_time import TimeFunction
from arrow_quant_v2.torch.evaluation.forward import Inputs, given_errors
from arrow_quant_v2.torch.evaluation.pair import ModelPair, checked_count, held_out_seed, load_pair
from arrow_quant_v2.torch.evaluation.sampled import compare_samples
from arrow_quant_v2.torch.evaluation.text import compare_text


@torch.no_grad()
def evaluate(
    original: str | os.PathLike[str],
    quantized: str | os.PathLike[str],
    samples: int = 16,
    seed: int = 0,
    activations: str | None = None,
    *,
    data: Any = None,
    columns: Mapping[str, str] | str | None = None,
    split: str | None = None,
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS,
    calls: Iterable[Any] | None = None,
    time_of: TimeFunction | None = None,
    allow_remote_code: bool = False,
    progress_callback: ProgressCallback | None = None,
    should_stop: StopQuestion | None = None,
) -> dict[str, Any]:
    """Compare a quantized model with the float one by what both make from the same seed, in float32.

    Args:
        original: folder of the float model, with config.json; its scheduler in or beside it.
        quantized: folder of the quantized one.
        samples: pictures, sounds or windows of text. Memory does not grow with it but for windows of tokens.
        seed: of noise, classes and masks; the same seed gives the same figures. Calibration with it has not seen them.
        activations: None, "int8", "int6" or "int4", as for load_quantized.
        data: text for a masked language model; samples to noise for a denoiser, on which its output error is measured
            instead of on its own trajectories. What arrow_quant_v2.calibration_data.open_data takes, best not what
            the model was calibrated with.
        columns: of data, by what they hold; see arrow_quant_v2.torch.data_sources.DataSource.
        split: of a data set by name.
        max_bad_rows: of data that cannot be used; more are an error.
        calls: arguments of forward calls, each a mapping, a tuple or a tensor, for a model that cannot be sampled: then
            its output error alone is measured, on at most ``samples`` samples.
        time_of: of calls; (args, kwargs) -> time of a call, where its arguments do not tell it.
        allow_remote_code: build the models by code in the folder of the float one where config.json needs it.
        progress_callback: called as (message, fraction in [0, 1]).
        should_stop: asked before each forward call; once it is true the run ends with CancelledError.

    Returns:
        original, quantized, samples, seed, activations, kind, missing (figures that are None, and why), and
        kind "image" or "latent": psnr_db, psnr_db_by_sample, ssim, lpips, fid; see pictures.PictureFigures.
        kind "audio": log_spectral_distance_db; see sound.log_spectral_distance.
        Both: steps, error_source, and output_error of the model's prediction (noise, velocity or sample): see
        outputs.OutputErrors.figures.
        kind "text": see text.compare_text.
        kind "calls": output_error, error_source.

    Raises:
        ConfigurationError: a bad argument, both data and calls, or no samples.
        UnsupportedModelError: a pipeline, a model that cannot be sampled, or one without ranges of activations.
        MetadataError, ModelNotFoundError, CorruptFileError, ShapeMismatchError: from reading the models or the data.
        CancelledError: should_stop was true.
    """
    inputs = Inputs(data, columns, split, max_bad_rows, calls, time_of)
    count, generator_seed = checked_count(samples), held_out_seed(seed)
    report = part_of(guarded(progress_callback), 0, 1, should_stop)
    pair = load_pair(original, quantized, activations, allow_remote_code)
    head = {
        "original": os.fspath(original), "quantized": os.fspath(quantized), "samples": count, "seed": seed,
        "activations": activations,
    }  # fmt: skip
    return {**head, **_compare(pair, inputs, count, generator_seed, report)}


def _compare(pair: ModelPair, inputs: Inputs, count: int, seed: int, report: ProgressCallback | None) -> dict[str, Any]:
    if inputs.calls is not None:
        errors, source = given_errors(pair, inputs, count, seed, report)
        figures = errors.figures()
        return {
            "kind": "calls", "samples": errors.samples, "output_error": figures, "error_source": source, "missing": {},
        }  # fmt: skip
    if pair.mask_token_id is not None:
        return compare_text(pair, inputs, count, seed, report)
    return compare_samples(pair, inputs, count, seed, report)
