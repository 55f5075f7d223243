"""Tables and sentences for the terminal."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table


def layer_table(result: dict[str, Any], planned: bool) -> Table:
    """A row per tensor: what it gets, or why it is kept."""
    table = Table("tensor", "shape", "role", "bits", "group", "tail", "KB", "method / reason")
    for layer in result["layers"]:
        table.add_row(
            layer["name"], _shape(layer), layer["role"], str(layer["bits"]), str(layer["group_size"]),
            str(layer["tail"]), f"{layer['stored_bytes'] / 1e3:.1f}", layer["method"],
        )  # fmt: skip
    for kept in result["kept"]:
        table.add_row(
            kept["name"], _shape(kept), kept["role"], "-", "-", "-", f"{kept['source_bytes'] / 1e3:.1f}",
            f"kept: {kept['reason']}",
        )  # fmt: skip
    return table


def inspect_table(rows: list[dict[str, Any]]) -> Table:
    """A row per stored tensor."""
    table = Table("tensor", "shape", "dtype", "bits", "group", "grid", "method / reason")
    for row in rows:
        quantized = row["bits"] > 0
        table.add_row(
            row["name"], _shape(row), row["dtype"], str(row["bits"]) if quantized else "-",
            str(row["group_size"]) if quantized else "-", row["grid"], row["method"] if quantized else row["reason"],
        )  # fmt: skip
    return table


def print_summary(console: Console, result: dict[str, Any], planned: bool) -> None:
    """The headline of a run: size, quality, fallbacks, warnings."""
    about = "at most " if planned else ""
    say = functools.partial(console.print, soft_wrap=True)  # a sentence stays one line in a log
    if result["modality"]:
        say(f"modality {result['modality']} ({result['modality_reason']})")
    say(
        f"{len(result['layers'])} tensors quantized, {len(result['kept'])} kept; "
        f"{result['source_size_mb']:.2f} MB -> {about}{result['model_size_mb']:.2f} MB "
        f"({result['compression_ratio']:.2f}x, {result['bits_per_weight']:.2f} bits a weight over all parameters)"
    )
    if result["merged"]:
        say(
            f"{len(result['merged'])} scales of 8-bit float weights applied to them: {result['merged'][0]['name']}, ..."
        )
    if not planned:
        if result["resumed_tensors"]:
            say(f"continued an interrupted run: {result['resumed_tensors']} tensors were finished already")
        say(
            f"{result['strategy']}, calibration {result['calibration']}: weight cosine "
            f"{result['cosine_similarity']:.5f}, SQNR {result['sqnr_db']:.2f} dB; "
            f"{result['quantization_time_s']:.2f} s, peak memory {result['peak_memory_mb']:.0f} MB"
        )
        _print_outputs(say, result)
        _print_fallbacks(say, result["fallbacks"])
        say(f"{result['layers_fallen_back']} of {len(result['layers'])} layers fell back")
    if result["mixed_precision"]:
        _print_precision(say, result["mixed_precision"])
    for warning in result["warnings"]:
        say(f"warning: {warning}")


def _print_fallbacks(say: Callable[[str], object], steps: list[dict[str, Any]]) -> None:
    """Every step, but for transforms that did not help: those are many and mean little, so one line tells of them."""
    plain = [step for step in steps if step["from_method"] == "spatial"]
    for step in steps:
        if step["from_method"] != "spatial":
            say(f"fell back: {step['layer']} {_step(step)}: {step['cause']}")
    if plain:
        others = f" and {len(plain) - 1} more" if len(plain) > 1 else ""
        say(f"not transformed: {plain[0]['layer']}{others}: {plain[0]['cause']}")


def _print_precision(say: Callable[[str], object], chosen: dict[str, Any]) -> None:
    counts = collections.Counter(layer["bits"] for layer in chosen["layers"])
    widths = ", ".join(f"{count} with {bits} bits" for bits, count in sorted(counts.items()))
    say(
        f"mixed precision: {widths}; {chosen['expected_bytes'] / 1e6:.2f} of {chosen['budget_bytes'] / 1e6:.2f} MB, "
        f"expected error {chosen['error']:.3g}, {chosen['greedy_error']:.3g} by greedy steps"
    )
    for uniform in chosen["uniform"]:
        say(f"  all with {uniform['bits']} bits: {uniform['bytes'] / 1e6:.2f} MB, error {uniform['error']:.3g}")


def print_forward(console: Console, result: dict[str, Any] | None) -> None:
    """What the whole model answered, of validate_quality."""
    if result is None:
        console.print("outputs: not compared, as the tensors differ")
        return
    console.print(
        f"outputs on {result['samples']} samples ({result['source']}): {output_figures(result)}; "
        f"{result['threshold']:g} is needed",
        soft_wrap=True,
    )


def output_figures(errors: dict[str, Any]) -> str:
    """One line about the outputs of two models."""
    error = errors["relative_squared_error"]
    at = "" if errors["worst_time"] is None else f" at time {errors['worst_time']:g}"
    size = "not finite" if error is None else f"{error:.3g}"
    return f"relative squared error {size}, cosine {errors['cosine']:.5f}, least {errors['min_cosine']:.5f}{at}"


def print_evaluation(console: Console, result: dict[str, Any]) -> None:
    """The figures of torch.evaluate."""
    say = functools.partial(console.print, soft_wrap=True)
    say(f"{result['samples']} samples of kind {result['kind']}, seed {result['seed']}")
    for key, unit in _UNITS.items():
        if result.get(key) is not None:
            say(f"{key.removesuffix('_db')}: {result[key]:.5g}{unit}")
    if result["kind"] == "text":
        console.print(_mask_table(result["by_mask_ratio"]))
    else:
        say(f"outputs ({result['error_source']}): {output_figures(result['output_error'])}")
        console.print(_time_table(result["output_error"]["by_time"]))
    for key, reason in result["missing"].items():
        say(f"no {key}: {reason}")


_UNITS = {
    "psnr_db": " dB", "ssim": "", "lpips": "", "fid": "", "log_spectral_distance_db": " dB",
    "nelbo_float": " nats a token", "nelbo_quantized": " nats a token", "kl": " nats a token", "flip_rate": "",
}  # fmt: skip


def _mask_table(rows: list[dict[str, Any]]) -> Table:
    keys = ("mask_ratio", "cross_entropy_float", "cross_entropy_quantized", "kl", "flip_rate")
    table = Table("masked", "float, nats", "quantized, nats", "KL, nats", "flipped")
    for row in rows:
        table.add_row(*(_number(row[key]) for key in keys))
    return table


def _time_table(rows: list[dict[str, Any]]) -> Table:
    """At most about ten rows; --json has all."""
    table = Table("time", "relative squared error", "cosine")
    for row in rows[:: -(-len(rows) // 10)]:
        table.add_row(*(_number(row[key]) for key in ("time", "relative_squared_error", "cosine")))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _print_outputs(say: Callable[[str], object], result: dict[str, Any]) -> None:
    measured = [layer for layer in result["layers"] if layer["output_cosine"] is not None]
    if measured:
        worst = min(measured, key=lambda layer: float(layer["output_cosine"]))
        say(
            f"outputs on held-out samples: worst layer {worst['name']}, cosine {worst['output_cosine']:.5f}, "
            f"SQNR {worst['output_sqnr_db']:.1f} dB"
        )


def _step(step: dict[str, Any]) -> str:
    if step["from_bits"] == step["to_bits"]:
        return f"{step['from_method']} -> {step['to_method']}"
    target = "kept" if step["to_bits"] == 16 else f"INT{step['to_bits']}"
    return f"INT{step['from_bits']} -> {target}"


def _shape(row: dict[str, Any]) -> str:
    return "x".join(str(d) for d in row["shape"]) or "scalar"
