"""Tables and sentences for the terminal."""

from __future__ import annotations

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
        for step in result["fallbacks"]:
            say(f"fell back: {step['layer']} {_step(step)}: {step['cause']}")
        say(f"{result['layers_fallen_back']} of {len(result['layers'])} layers fell back")
    for warning in result["warnings"]:
        say(f"warning: {warning}")


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
