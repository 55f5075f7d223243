"""Gather what is known of a quantized model into one dictionary, which is the report's JSON."""

from __future__ import annotations

import math
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

from arrow_quant_v2.model_file import QuantizedModel, StoredTensor
from arrow_quant_v2.parquet_input import ParquetSource, open_parquet_input
from arrow_quant_v2.report import original as originals
from arrow_quant_v2.report import run_result, stored_facts
from arrow_quant_v2.report.activation_ranges import ranges_over_time
from arrow_quant_v2.report.machine import machine, versions
from arrow_quant_v2.report.weight_grids import grid_histogram
from arrow_quant_v2.safetensors_source import SafetensorsSource

Facts = dict[str, Any]

FORMAT, FORMAT_VERSION = "arrow_quant_report", 1
WORST = 6  # layers with histograms


def collect(
    quantized: pathlib.Path,
    original: pathlib.Path | None = None,
    result: pathlib.Path | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Facts:
    """The facts of docs/report.md, with ``samples`` None.

    Raises:
        ModelNotFoundError, UnsupportedModelError, CorruptFileError: ``quantized`` or ``result`` is none.
        ConfigurationError, ShapeMismatchError: ``original`` or ``result`` is of another model. CancelledError.
    """
    model = stored_facts.open_quantized(quantized)
    figures = stored_facts.quality_rows(model)
    rows = [(entry, figures.get((entry.component, entry.name), {})) for entry in model.entries]
    layers = [stored_facts.layer_facts(entry, row) for entry, row in rows if entry.quantized]
    kept = [stored_facts.kept_facts(entry, row) for entry, row in rows if not entry.quantized]
    run, warnings = _run(result, layers, kept)
    measured = None if original is None else originals.compare(original, quantized, layers, should_stop)
    if measured is not None and measured["missing"]:
        warnings.append(f"tensors of the original that are not in the model: {', '.join(measured['missing'])}")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": stored_facts.run_facts(quantized, model),
        "headline": _headline(model, layers, kept, run, measured),
        "warnings": warnings,
        "layers": layers,
        "kept": kept,
        "weight_grids": _read_values(model, layers, original),
        "samples": None,
        "versions": versions(),
        "machine": machine(),
    }


def _run(path: pathlib.Path | None, layers: list[Facts], kept: list[Facts]) -> tuple[Facts, list[str]]:
    """Figures and warnings of the run's result."""
    if path is None:
        return {}, []
    result = run_result.read_result(path)
    run_result.check_result(result, path, layers, kept)
    return run_result.add_result(result, layers, kept), list(result["warnings"])


def _headline(
    model: QuantizedModel, layers: list[Facts], kept: list[Facts], run: Facts, measured: Facts | None
) -> Facts:
    """None for what is not known."""
    count = sum(row["num_params"] for row in (*layers, *kept))
    size = model.parquet_bytes
    by_dtype = sum(stored_facts.source_bytes(entry) for entry in model.entries) / 1e6
    source = run.get("source_size_mb") or by_dtype
    told = measured or run
    return {
        "model_size_mb": size / 1e6,
        "source_size_mb": source,
        "compression_ratio": measured["compression_ratio"] if measured else source * 1e6 / size,
        "bits_per_weight": 8 * size / max(1, count),
        "num_parameters": count,
        "layers_quantized": len(layers),
        "tensors_kept": len(kept),
        "layers_fallen_back": _fallen_back(layers, kept),
        "cosine_similarity": told.get("cosine_similarity"),
        "sqnr_db": told.get("sqnr_db"),
        **_worst("cosine", layers),
        **_worst("output_cosine", layers),
        "psnr_db": None,
        "token_agreement": None,
        **{key: run.get(key) for key in ("quantization_time_s", "calibration_time_s", "peak_memory_mb")},
    }


def _fallen_back(layers: list[Facts], kept: list[Facts]) -> int | None:
    rows = [row for row in (*layers, *kept) if row.get("fallbacks") is not None]
    return sum(bool(row["fallbacks"]) for row in rows) if rows else None


def _worst(key: str, layers: list[Facts]) -> Facts:
    """Least and median of a figure of the layers, and the layer that has the least."""
    known = [row for row in layers if row[key] is not None]
    worst = min(known, key=lambda row: float(row[key]), default=None)
    return {
        f"min_{key}": worst[key] if worst else None,
        f"min_{key}_layer": worst["name"] if worst else None,
        f"median_{key}": statistics.median(row[key] for row in known) if known else None,
    }


def error_db(layer: Facts) -> float:
    """SQNR of the layer's outputs where activations are known, else of its weights; infinity where neither is."""
    for key in ("output_sqnr_db", "sqnr_db"):
        if layer[key] is not None:
            return float(layer[key])
    return math.inf


def _read_values(model: QuantizedModel, layers: list[Facts], original: pathlib.Path | None) -> list[Facts]:
    """Put the ranges of activations into ``layers``; returns histograms of the worst of them, worst first."""
    source = None if original is None else _source(original)
    order = sorted(range(len(layers)), key=lambda at: error_db(layers[at]))
    ranks = {at: rank for rank, at in enumerate(order[:WORST])}
    histograms: dict[int, Facts] = {}
    places = [place for place, entry in enumerate(model.entries) if entry.quantized]
    for at, place in enumerate(places):
        tensor = model.load(place)
        layers[at].update(_loaded_facts(tensor))
        if at not in ranks or not tensor.packed:
            continue
        values = None if source is None else source.read((tensor.component, tensor.name)).to_float32()
        about = {key: layers[at][key] for key in ("name", "component", "bits", "grid")}
        histograms[ranks[at]] = {**about, **grid_histogram(tensor, values)}
    return [histograms[rank] for rank in sorted(histograms)]


def _loaded_facts(tensor: StoredTensor) -> Facts:
    """What is known once the values are read."""
    if not tensor.packed:
        return {}
    parts = (tensor.data, tensor.scales, tensor.zero_points, tensor.residual_scales, tensor.column_scales)
    tables = (tensor.shift, tensor.time_scales, tensor.time_zero_points, tensor.time_gamma, tensor.time_beta)
    size = sum(part.nbytes for part in (*parts, *tables))
    return {
        "stored_bytes": size,
        "bits_per_weight": 8 * size / max(1, math.prod(tensor.shape)),
        "activation_ranges": ranges_over_time(tensor),
    }


def _source(path: pathlib.Path) -> SafetensorsSource | ParquetSource:
    parquet = open_parquet_input(path)
    return SafetensorsSource(path) if parquet is None else ParquetSource(parquet)
