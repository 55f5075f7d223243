"""Quantize and validate whole models."""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

from arrow_quant_v2._native import core
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import CancelledError, ConfigurationError
from arrow_quant_v2.export import refuse_existing, refuse_output_over_input
from arrow_quant_v2.parquet_input import as_parquet_result, expanded_model, headers_of, open_parquet_input, prepare
from arrow_quant_v2.validate import validate

ProgressCallback = Callable[[str, float], None]
StopQuestion = Callable[[], bool]
PathLike = str | os.PathLike[str]

_log = logging.getLogger("arrow_quant_v2")


class ArrowQuantV2:
    """The quantizer.

    Args:
        mode: "diffusion" finds the modality of the model and raises MetadataError when nothing tells it; "base"
            quantizes any model.
    """

    def __init__(self, mode: str = "diffusion") -> None:
        if mode not in ("diffusion", "base"):
            raise ConfigurationError(f"mode is {mode!r}. Use 'diffusion' or 'base'.", code="configuration")
        self.mode = mode

    def quantize_diffusion_model(
        self,
        model_path: PathLike,
        output_path: PathLike,
        config: DiffusionQuantConfig | None = None,
        calibration: str | None = None,
        progress_callback: ProgressCallback | None = None,
        *,
        overwrite: bool = False,
        should_stop: StopQuestion | None = None,
    ) -> dict[str, Any]:
        """Quantize the weights of a model into a directory of Parquet files.

        Args:
            model_path: a .safetensors file, a sharded index, a diffusers component or pipeline, a transformers
                directory, or a Parquet model of an older layout or ours. An already quantized one is rounded again,
                with a warning, when ``config`` asks for fewer bits; otherwise UnsupportedModelError names ``convert``.
            output_path: a directory that does not exist or is empty, unless ``overwrite``.
            config: default DiffusionQuantConfig.from_profile("local").
            calibration: None or "none"; activations are not used in this version.
            progress_callback: called as (message, fraction in [0, 1]); an exception in it is logged, except
                KeyboardInterrupt, which stops the run and leaves nothing under ``output_path``.
            should_stop: asked about every 50 ms; once it is true the run ends with CancelledError and leaves nothing.

        Returns:
            quantized_path, modality, bit_width, method and calibration (what ran), compression_ratio (bytes of the
            source's weights / bytes on disk), bits_per_weight (on disk, all parameters), model_size_mb (1e6 bytes),
            cosine_similarity and sqnr_db (of all quantized weights), layers, kept (with reason), fallbacks,
            fallback_rate, warnings, quantization_time_s, peak_memory_mb.
        """
        config = config or DiffusionQuantConfig()
        if calibration is not None:
            config = config.with_overrides(calibration=calibration)
        callback = _guarded(progress_callback)
        model = open_parquet_input(pathlib.Path(model_path), config)
        if model is None:
            return self._quantize(model_path, output_path, config, callback, overwrite, should_stop)
        config, warnings = prepare(model, config)
        refuse_existing(pathlib.Path(output_path), overwrite)
        refuse_output_over_input(pathlib.Path(model_path), pathlib.Path(output_path))
        with expanded_model(model, pathlib.Path(output_path), None, _part(callback, 0, 0.2, should_stop)) as folder:
            rest = _part(callback, 0.2, 1, should_stop)
            result = self._quantize(folder, output_path, config, rest, overwrite, should_stop)
        return as_parquet_result(result, model, warnings)

    def _quantize(
        self,
        model_path: PathLike,
        output_path: PathLike,
        config: DiffusionQuantConfig,
        callback: ProgressCallback | None,
        overwrite: bool,
        should_stop: StopQuestion | None,
    ) -> dict[str, Any]:
        options = {**config.to_dict(), "diffusion": self.mode == "diffusion", "overwrite": overwrite}
        text = core.quantize_model(
            os.fspath(model_path), os.fspath(output_path), json.dumps(options), callback, should_stop
        )
        result: dict[str, Any] = json.loads(text)
        return result

    def quantize(
        self,
        model_path: PathLike,
        output_path: PathLike,
        bit_width: int = 4,
        group_size: int = 128,
        *,
        overwrite: bool = False,
        progress_callback: ProgressCallback | None = None,
        should_stop: StopQuestion | None = None,
    ) -> dict[str, Any]:
        """Quantize any model at the given width, without a quality threshold. Result as quantize_diffusion_model."""
        config = DiffusionQuantConfig(bit_width=bit_width, group_size=group_size, min_accuracy=0.0)
        return ArrowQuantV2("base").quantize_diffusion_model(
            model_path, output_path, config, overwrite=overwrite, progress_callback=progress_callback,
            should_stop=should_stop,
        )  # fmt: skip

    def plan(self, model_path: PathLike, config: DiffusionQuantConfig | None = None) -> dict[str, Any]:
        """What quantize_diffusion_model would do with each tensor, from headers only; sizes are upper estimates."""
        config = config or DiffusionQuantConfig()
        model = open_parquet_input(pathlib.Path(model_path), config)
        if model is None:
            return self._plan(model_path, config)
        config, warnings = prepare(model, config)
        with headers_of(model) as folder:
            return as_parquet_result(self._plan(folder, config), model, warnings)

    def _plan(self, model_path: PathLike, config: DiffusionQuantConfig) -> dict[str, Any]:
        options = {**config.to_dict(), "diffusion": self.mode == "diffusion"}
        result: dict[str, Any] = json.loads(core.plan_model(os.fspath(model_path), json.dumps(options)))
        return result

    def validate_quality(
        self,
        original_path: PathLike,
        quantized_path: PathLike,
        min_accuracy: float | None = None,
        *,
        should_stop: StopQuestion | None = None,
    ) -> dict[str, Any]:
        """Compare the weights on disk, tensor by tensor; see arrow_quant_v2.validate.validate."""
        return validate(os.fspath(original_path), os.fspath(quantized_path), min_accuracy, should_stop)


def _part(
    callback: ProgressCallback | None, begin: float, end: float, should_stop: StopQuestion | None
) -> ProgressCallback | None:
    """A callback for a part of the run, which asks whether to stop too."""
    if callback is None and should_stop is None:
        return None

    def call(message: str, fraction: float) -> None:
        if should_stop is not None and should_stop():
            raise CancelledError("stopped on request")
        if callback is not None:
            callback(message, begin + (end - begin) * fraction)

    return call


def _guarded(callback: ProgressCallback | None) -> ProgressCallback | None:
    """A callback whose errors are logged once and never end a run."""
    if callback is None:
        return None
    failed = False

    def call(message: str, fraction: float) -> None:
        nonlocal failed
        try:
            callback(message, fraction)
        except Exception:
            if not failed:
                _log.exception("the progress callback failed; the run goes on")
            failed = True

    return call
