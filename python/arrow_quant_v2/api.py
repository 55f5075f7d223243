"""Quantize and validate whole models."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from arrow_quant_v2._native import core
from arrow_quant_v2.calibration import Calibration, SampledStatistics, expected_calibration, find_calibration
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.export import refuse_existing, refuse_output_over_input
from arrow_quant_v2.extras import needs_extra
from arrow_quant_v2.graph_facts import graph_facts
from arrow_quant_v2.layer_sensitivity import layer_sensitivity
from arrow_quant_v2.parquet_input import as_parquet_result, expanded_model, headers_of, open_parquet_input, prepare
from arrow_quant_v2.progress import ProgressCallback, StopQuestion, guarded, part_of
from arrow_quant_v2.saved_plan import save_plan
from arrow_quant_v2.validate import validate

PathLike = str | os.PathLike[str]

# Sampling a model takes most of a run.
_CALIBRATION_SHARE = 0.8


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
            fallback_rate, mixed_precision (None without; how it chose: budget_bytes, expected_bytes, error, and layers
            with bytes and error of every width), warnings, resumed_tensors (that an interrupted run had finished),
            quantization_time_s,
            peak_memory_mb.

        Raises:
            ModelNotFoundError: nothing is at ``model_path``, or no weights.
            CorruptFileError: a file that breaks its format; names it, and the tensor.
            MetadataError: nothing tells the modality of the model.
            UnsupportedModelError: a valid model that cannot be quantized: pickles, one of another quantizer.
            ConfigurationError: a wrong option, or an output that may not be replaced.
            QuantizationError: NaN or infinity in a weight, unless ``on_nonfinite`` is "keep".
            ValidationError: a layer below ``min_accuracy`` where ``fail_fast`` is set.
            ResourceError: disk, memory, permissions, or another run has the output.
            CancelledError: ``should_stop`` was true.
        """
        config = config or DiffusionQuantConfig()
        if isinstance(calibration, (str, os.PathLike)):
            config, calibration = config.with_overrides(calibration=os.fspath(calibration)), None
        callback = guarded(progress_callback)
        run = {"overwrite": overwrite, "resume": resume}
        model = open_parquet_input(pathlib.Path(model_path), config)
        if model is None:
            return self._quantize(model_path, output_path, config, calibration, callback, run, should_stop)
        config, warnings = prepare(model, config)
        refuse_existing(pathlib.Path(output_path), overwrite)
        refuse_output_over_input(pathlib.Path(model_path), pathlib.Path(output_path))
        core.RunLock(os.fspath(output_path)).release()  # a second run ends here, before its work
        with expanded_model(model, pathlib.Path(output_path), None, part_of(callback, 0, 0.2, should_stop)) as folder:
            rest = part_of(callback, 0.2, 1, should_stop)
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
            part = part_of(callback, 0, _CALIBRATION_SHARE, should_stop)
            found = self._calibration(model_path, config, given, part, keep)
            options = self._run_options(config, run, model_path, found, output_path, part)
        calibrated = time.perf_counter()
        text = core.quantize_model(
            os.fspath(model_path),
            os.fspath(output_path),
            options,
            part_of(callback, _CALIBRATION_SHARE, 1, None) if found.sampled else callback,
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

    def _run_options(
        self,
        config: DiffusionQuantConfig,
        run: dict[str, bool],
        model_path: PathLike,
        found: Calibration,
        output_path: PathLike | None,
        report: ProgressCallback | None,
    ) -> str:
        """With what quantization needs to know of the model and does not see in its tensors."""
        options = json.loads(self._options(config, run))
        if found.statistics is not None:
            options |= graph_facts(model_path, config).options(config)
        if not config.enable_mixed_precision:
            return json.dumps(options)
        # The bar stays where it is, after sampling or at its beginning.
        still = _at(report, 1.0 if found.sampled else 0.0)
        measured = layer_sensitivity(model_path, config, found.statistics, output_path, still)
        return json.dumps({**options, "layer_sensitivity": measured})

    def _calibration(
        self,
        model_path: PathLike,
        config: DiffusionQuantConfig,
        given: Any,
        report: ProgressCallback | None,
        keep: SampledStatistics | None,
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
        """Quantize any model at the given width, without a quality threshold.

        Args:
            model_path: as for quantize_diffusion_model.
            output_path: as there.
            bit_width: 2, 3, 4 or 8.
            group_size: weights of a row that share a scale: 16, 32, 64, 128, 256, or -1 for whole rows.
            overwrite: replace a model that is there.
            resume: False to begin anew.
            progress_callback: called as (message, fraction in [0, 1]).
            should_stop: asked about every 50 ms.

        Returns and raises what quantize_diffusion_model does.
        """
        config = DiffusionQuantConfig(bit_width=bit_width, group_size=group_size, min_accuracy=0.0)
        return ArrowQuantV2("base").quantize_diffusion_model(
            model_path, output_path, config, overwrite=overwrite, resume=resume,
            progress_callback=progress_callback, should_stop=should_stop,
        )  # fmt: skip

    def plan(
        self,
        model_path: PathLike,
        config: DiffusionQuantConfig | None = None,
        calibration: Any = None,
        progress_callback: ProgressCallback | None = None,
        *,
        save_to: PathLike | None = None,
        should_stop: StopQuestion | None = None,
    ) -> dict[str, Any]:
        """What quantize_diffusion_model would do with each tensor, from headers only; sizes are upper estimates.

        With mixed precision the model is calibrated and its layers are measured, as in a run, since its bits follow
        from that; a run with ``from_plan`` then needs not measure again.

        Args:
            model_path: as for quantize_diffusion_model.
            config: as there.
            calibration, progress_callback, should_stop: of mixed precision; as there.
            save_to: a file for the plan, as JSON. Bits (16 keeps a tensor), group_size and method of its entries may be
                edited; the configuration's ``from_plan`` takes it back.

        Returns:
            The keys of quantize_diffusion_model's result: layers with bits, group_size, tail (columns of the last
            group of a row) and stored_bytes, kept with reason, calibration (what would run). Figures of errors, times
            and memory, which only a run can tell, are None. Sizes are upper estimates: files are compressed.

        Raises:
            ModelNotFoundError: nothing is at ``model_path``, or no weights.
            CorruptFileError: a header that breaks its format.
            MetadataError: nothing tells the modality of the model.
            UnsupportedModelError: a valid model that cannot be quantized.
        """
        config = config or DiffusionQuantConfig()
        if isinstance(calibration, (str, os.PathLike)):
            config, calibration = config.with_overrides(calibration=os.fspath(calibration)), None
        report = part_of(guarded(progress_callback), 0, 1, should_stop)
        model = open_parquet_input(pathlib.Path(model_path), config)
        if model is None:
            result = self._plan(model_path, config, calibration, report, should_stop)
        else:
            config, warnings = prepare(model, config)
            if config.enable_mixed_precision:
                raise ConfigurationError(
                    "a plan with mixed precision needs the weights of a Parquet model. Export it to safetensors first."
                )
            with headers_of(model) as folder:
                result = as_parquet_result(self._plan(folder, config, None, report, should_stop), model, warnings)
        result = _without_measured(result)
        if save_to is not None:
            save_plan(result, pathlib.Path(save_to))
        return result

    def _plan(
        self,
        model_path: PathLike,
        config: DiffusionQuantConfig,
        given: Any,
        report: ProgressCallback | None,
        should_stop: StopQuestion | None,
    ) -> dict[str, Any]:
        if not config.enable_mixed_precision:
            kind = expected_calibration(model_path, config, may_sample=self.mode == "diffusion")
            text = core.plan_model(os.fspath(model_path), self._options(config, {}), None, kind)
        else:
            found = self._calibration(model_path, config, given, part_of(report, 0, _CALIBRATION_SHARE, None), None)
            options = self._run_options(config, {}, model_path, found, None, report)
            text = core.plan_model(
                os.fspath(model_path), options, found.statistics, found.kind,
                part_of(report, _CALIBRATION_SHARE, 1, None), should_stop,
            )  # fmt: skip
        result: dict[str, Any] = json.loads(text)
        return result

    def validate_quality(
        self,
        original_path: PathLike,
        quantized_path: PathLike,
        min_accuracy: float | None = None,
        *,
        forward_samples: int | None = None,
        evaluation_samples: int | None = None,
        data: Any = None,
        columns: Mapping[str, str] | str | None = None,
        split: str | None = None,
        calls: Iterable[Any] | None = None,
        seed: int = 0,
        allow_remote_code: bool = False,
        progress_callback: ProgressCallback | None = None,
        should_stop: StopQuestion | None = None,
    ) -> dict[str, Any]:
        """Compare the weights on disk, tensor by tensor, and on request what the whole models answer.

        Args:
            original_path: the source, as it was given to quantize_diffusion_model.
            quantized_path: what came out.
            min_accuracy: least weight cosine of a layer, and least cosine of the whole model's outputs at any time
                (there 0.9 where it is None).
            forward_samples: run both models on so many samples that calibration has not seen: some steps of the float
                model's own sampling, or ``data`` (with columns and split), or ``calls``; see
                arrow_quant_v2.torch.evaluate. Needs PyTorch. None compares weights alone.
            evaluation_samples: also compare what both models make from the same seed, on so many samples; see
                arrow_quant_v2.torch.evaluate. Its figures have no threshold. Needs PyTorch.
            data: real samples for both, as for calibration; best others than those.
            columns: of data, by what they hold.
            split: of a data set by name.
            calls: arguments of forward calls, each a mapping, a tuple or a tensor.
            seed: of noise, classes and masks.
            allow_remote_code: build the models by code in the original's folder where config.json needs it.
            progress_callback: called as (message, fraction in [0, 1]) before each forward call.
            should_stop: asked between tensors and calls; once it is true the run ends with CancelledError.

        Returns what arrow_quant_v2.validate.validate does; with ``forward_samples`` also ``forward``, see
        arrow_quant_v2.torch.evaluation.forward.check_forward, which has to pass too, and is None where tensors are
        missing or too many, so that nothing could run. With ``evaluation_samples`` also ``evaluation``, what
        arrow_quant_v2.torch.evaluate returns, or None for the same reason.
        """
        runs = {"forward_samples": forward_samples, "evaluation_samples": evaluation_samples}
        if all(count is None for count in runs.values()) and (data is not None or calls is not None):
            raise ConfigurationError(f"data and calls are for {' and '.join(runs)}, which are None. Give a number.")
        if forward_samples is not None and evaluation_samples is not None and calls is not None:
            calls = list(calls)  # both go through them
        result = validate(os.fspath(original_path), os.fspath(quantized_path), min_accuracy, should_stop)
        complete = not (result["missing"] or result["extra"])
        inputs = {"data": data, "columns": columns, "split": split, "calls": calls}
        models = (original_path, quantized_path, allow_remote_code)
        if forward_samples is not None:
            report = part_of(guarded(progress_callback), 0, 1 if evaluation_samples is None else 0.5, should_stop)
            forward = _check_forward(*models, forward_samples, min_accuracy, inputs, seed, report) if complete else None
            result["forward"] = forward
            result["passed"] = result["passed"] and forward is not None and forward["passed"]
        if evaluation_samples is not None:
            report = part_of(guarded(progress_callback), 0 if forward_samples is None else 0.5, 1, should_stop)
            result["evaluation"] = _evaluate(*models, evaluation_samples, seed, inputs, report) if complete else None
        return result


def _at(report: ProgressCallback | None, fraction: float) -> ProgressCallback | None:
    """For work that has no share of the bar."""
    if report is None:
        return None
    return lambda message, _: report(message, fraction)


# What the core's plan has for the sake of one format; only a run measures them.
_MEASURED = {"cosine_similarity", "sqnr_db", "quantization_time_s", "peak_memory_mb"}
_MEASURED_OF_LAYERS = {"cosine", "sqnr_db", "constant_groups"}


def _without_measured(plan: dict[str, Any]) -> dict[str, Any]:
    layers = [_emptied(layer, _MEASURED_OF_LAYERS) for layer in plan["layers"]]
    return {**_emptied(plan, _MEASURED), "layers": layers}


def _emptied(facts: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: None if key in keys else value for key, value in facts.items()}


def _check_forward(
    original: PathLike,
    quantized: PathLike,
    allow_remote_code: bool,
    samples: int,
    min_cosine: float | None,
    inputs: dict[str, Any],
    seed: int,
    report: ProgressCallback | None,
) -> dict[str, Any]:
    with needs_extra("forward_samples", "torch"):
        from arrow_quant_v2.torch.evaluation.forward import Inputs, check_forward
    return check_forward(original, quantized, samples, min_cosine, Inputs(**inputs), seed, report, allow_remote_code)


def _evaluate(
    original: PathLike,
    quantized: PathLike,
    allow_remote_code: bool,
    samples: int,
    seed: int,
    inputs: dict[str, Any],
    report: ProgressCallback | None,
) -> dict[str, Any]:
    with needs_extra("evaluation_samples", "torch"):
        from arrow_quant_v2.torch import evaluate
    return evaluate(
        original, quantized, samples, seed, **inputs, allow_remote_code=allow_remote_code, progress_callback=report
    )
