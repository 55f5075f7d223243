"""What only the result of a run tells, as ``arrow-quant quantize --json`` prints it: times, memory, fallbacks."""

from __future__ import annotations

import pathlib
from typing import Any

from arrow_quant_v2.errors import ConfigurationError, CorruptFileError, ModelNotFoundError
from arrow_quant_v2.model_file import read_json

Facts = dict[str, Any]

_NUMBERS = (
    "quantization_time_s", "calibration_time_s", "peak_memory_mb", "cosine_similarity", "sqnr_db", "source_size_mb"
)  # fmt: skip
_STEP: dict[str, type | tuple[type, ...]] = {
    "from_bits": int, "to_bits": int, "from_method": str, "to_method": str, "cause": str,
    "cosine_before": (int, float), "cosine_after": (int, float),
}  # fmt: skip


def read_result(path: pathlib.Path) -> Facts:
    """A result, checked for what the report takes from it. Raises ModelNotFoundError, CorruptFileError."""
    if not path.is_file():
        raise ModelNotFoundError.compose(
            "no such file", file=str(path), remedy="Give what arrow-quant quantize --json printed."
        )
    result = read_json(path)
    lists = ("layers", "kept", "fallbacks", "warnings")
    if not all(isinstance(result.get(key), list) for key in lists) or not _sound(result):
        raise CorruptFileError.compose(
            "is not the result of a run", file=str(path), remedy="Give what arrow-quant quantize --json printed."
        )
    return result


def _sound(result: Facts) -> bool:
    named = [*result["layers"], *result["kept"]]
    steps = result["fallbacks"]
    return (
        all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in named)
        and all(isinstance(step, dict) and isinstance(step.get("layer"), str) for step in steps)
        and all(isinstance(step.get(key), kind) for step in steps for key, kind in _STEP.items())
        and all(isinstance(result.get(key, 0.0), int | float) for key in _NUMBERS)
        and all(isinstance(text, str) for text in result["warnings"])
    )


def check_result(result: Facts, path: pathlib.Path, layers: list[Facts], kept: list[Facts]) -> None:
    """Refuse the result of another model's run, or of another run. Raises ConfigurationError."""
    told = {(row["name"], row.get("bits", 0)) for row in (*result["layers"], *result["kept"])}
    found = {(row["name"], row.get("bits", 0)) for row in (*layers, *kept)}
    cosines = {row["name"]: row.get("cosine") for row in result["layers"]}
    odd = sorted({name for name, _ in told ^ found} | {r["name"] for r in layers if not _same(r, cosines)})
    if odd:
        raise ConfigurationError.compose(
            f"is the result of another run: {len(odd)} tensors differ from the model, '{odd[0]}' first",
            file=str(path),
            remedy="Give the result of the run that wrote the model.",
        )


def _same(layer: Facts, cosines: dict[str, Any]) -> bool:
    told = cosines.get(layer["name"])
    return layer["cosine"] is None or layer["component"] != "" or told == layer["cosine"]


def add_result(result: Facts, layers: list[Facts], kept: list[Facts]) -> Facts:
    """Give each tensor its fallbacks; returns the figures of the run, None where the result lacks one."""
    steps: dict[str, list[Facts]] = {}
    for step in result["fallbacks"]:
        steps.setdefault(step["layer"], []).append({key: step[key] for key in _STEP})
    for row in (*layers, *kept):
        row["fallbacks"] = steps.get(row["name"], [])
    return {key: result.get(key) for key in _NUMBERS}
