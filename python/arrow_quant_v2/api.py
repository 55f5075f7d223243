"""Quantize and validate whole models."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from arrow_quant_v2._native import core
from arrow_quant_v2.calibration import Calibration, SampledStatistics, expected_calibration, find_calibration
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import CancelledError, ConfigurationError
from arrow_quant_v2.export import refuse_existing, refuse_output_over_input
from arrow_quant_v2.parquet_input import as_parquet_result, expanded_model, headers_of, open_parquet_input, prepare
from arrow_quant_v2.validate import validate

ProgressCallback = Callable[[str, float], None]
StopQuestion = Callable[[], bool]
PathLike = str | os.PathLike[str]

# Sampling a model takes most of a run.
_CALIBRATION_SHARE = 0.8

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
        calibration: Any = None,
        progress_callback: ProgressCallback | None = None,
        *,
        overwrite: bool = False,
        resume: bool = True,
        should_stop: StopQuestion | None = None,
    ) -> dict[str, Any]:
        """Quantize the weights of a model into a directory of Parquet files.

        What a run has finished when it is killed, stopped or refused by the system stays in the hidden directory
        ``.<output>.partial``; the same call continues from there and gives the same bytes.

        Args:
            model_path: a .safetensors file, a sharded index, a diffusers component or pipeline, a transformers
                directory, or a Parquet model of an older layout or ours. An already quantized one is rounded again,
                with a warning, when ``config`` asks for fewer bits; otherwise UnsupportedModelError names ``convert``.
            output_path: a directory that does not exist or is empty, unless ``overwrite``.
            overwrite: replace a model that is there, and throw away what an interrupted run of another source,
                configuration or calibration has left; without it that is a ConfigurationError that names the change.
            resume: False to begin anew in any case.
            config: default DiffusionQuantConfig.from_profile("local").
            calibration: where activations come from, instead of ``config.calibration``: "auto", "synthetic", "none",
                the path of a calibration file, or a collector or statistics object of this model.
            progress_callback: called as (message, fraction in [0, 1]); an exception in it is logged, except
                KeyboardInterrupt, which stops the run and leaves nothing under ``output_path``.
            should_stop: asked about every 50 ms; once it is true the run ends with CancelledError and leaves nothing
                under ``output_path``.

        Returns:
            quantized_path, modality, bit_width, method, strategy and calibration (what ran: "activations",
            "synthetic" or "none", with calibration_reason and calibration_time_s), compression_ratio (bytes of the
            source's weights / bytes on disk), bits_per_weight (on disk, all parameters), model_size_mb (1e6 bytes),
            cosine_similarity and sqnr_db (of all quantized weights), layers, kept (with reason), fallbacks,
            fallback_rate, warnings, resumed_tensors (that an interrupted run had finished), quantization_time_s,
            peak_memory_mb.
        """
        config = config or DiffusionQuantConfig()
        if isinstance(calibration, (str, os.PathLike)):
            config, calibration = config.with_overrides(calibration=os.fspath(calibration)), None
        callback = _guarded(progress_callback)
        run = {"overwrite": overwrite, "resume": resume}
        model = open_parquet_input(pathlib.Path(model_path), config)
        if model is None:
            return self._quantize(model_path, output_path, config, calibration, callback, run, should_stop)
        config, warnings = prepare(model, config)
        refuse_existing(pathlib.Path(output_path), overwrite)
        refuse_output_over_input(pathlib.Path(model_path), pathlib.Path(output_path))
        core.RunLock(os.fspath(output_path)).release()  # a second run ends here, before its work
        with expanded_model(model, pathlib.Path(output_path), None, _part(callback, 0, 0.2, should_stop)) as folder:
            rest = _part(callback, 0.2, 1, should_stop)
            result = self._quantize(folder, output_path, config, calibration, rest, run, should_stop)
        return as_parquet_result(result, model, warnings)

    def _quantize(
        self,
        model_path: PathLike,
        output_path: PathLike,
        config: DiffusionQuantConfig,
        given: Any,
        callback: ProgressCallback | None,
        run: dict[str, bool],
        should_stop: StopQuestion | None,
    ) -> dict[str, Any]:
        refuse_existing(pathlib.Path(output_path), run["overwrite"])
        refuse_output_over_input(pathlib.Path(model_path), pathlib.Path(output_path))
        start = time.perf_counter()
        with SampledStatistics(output_path, model_path, config) as keep:
            part = _part(callback, 0, _CALIBRATION_SHARE, should_stop)
            found = self._calibration(model_path, config, given, part, keep)
        calibrated = time.perf_counter()
        text = core.quantize_model(
            os.fspath(model_path),
            os.fspath(output_path),
            self._options(config, run),
            _part(callback, _CALIBRATION_SHARE, 1, None) if found.sampled else callback,
            should_stop,
            found.statistics,
            found.kind,
        )
        result: dict[str, Any] = json.loads(text)
        result["calibration_reason"] = found.reason
        result["calibration_time_s"] = calibrated - start
        if config.calibration == "auto" and found.kind == "none" and found.wanted:
            result["warnings"].append(found.reason)
        return result

    def _options(self, config: DiffusionQuantConfig, run: dict[str, bool]) -> str:
        return json.dumps({**config.to_dict(), "diffusion": self.mode == "diffusion", **run})

    def _calibration(
        self,
        model_path: PathLike,
        config: DiffusionQuantConfig,
        given: Any,
        report: ProgressCallback | None,
        keep: SampledStatistics,
    ) -> Calibration:
        if given is not None:
            statistics = getattr(given, "statistics", given)
            if not isinstance(statistics, core.StatisticsSource):
                raise ConfigurationError(f"calibration is {given!r}. Give a path, 'auto', 'none' or statistics.")
            return Calibration(statistics, "activations", "activations given by the caller.")
        return find_calibration(model_path, config, report, may_sample=self.mode == "diffusion", keep=keep)

    def quantize(
        self,
        model_path: PathLike,
        output_path: PathLike,
        bit_width: int = 4,
        group_size: int = 128,
        *,
        overwrite: bool = False,
        resume: bool = True,
        progress_callback: ProgressCallback | None = None,
        should_stop: StopQuestion | None = None,
    ) -> dict[str, Any]:
        """Quantize any model at the given width, without a quality threshold. Result as quantize_diffusion_model."""
        config = DiffusionQuantConfig(bit_width=bit_width, group_size=group_size, min_accuracy=0.0)
        return ArrowQuantV2("base").quantize_diffusion_model(
            model_path, output_path, config, overwrite=overwrite, resume=resume,
            progress_callback=progress_callback, should_stop=should_stop,
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
        kind = expected_calibration(model_path, config, may_sample=self.mode == "diffusion")
        text = core.plan_model(os.fspath(model_path), self._options(config, {}), None, kind)
        result: dict[str, Any] = json.loads(text)
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
