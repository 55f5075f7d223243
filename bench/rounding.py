"""Rounding with second moments beside nearest rounding and textbook GPTQ in torch, in one run.

usage: rounding.py --problem FILE [--sizes 2048 4096] [--rows N] [--threads 1 2] [--repeats N] [--cache DIR]
                   [--out FILE]

FILE is a module with weight(rows, cols), acts(n, d) and second_moment(x): the layers that all methods get. Error is
tr(E H E^T) / tr(W H W^T), summed in double. Bits per weight are those of a Parquet file of the layer (ZSTD), grids and
overhead included. Seconds are wall time from weight and second moment to codes and grids, the least of the repeats.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from arrow_quant_v2._native import core

SETTINGS = ((4, 128), (3, 128), (2, 64))
Layer = dict[str, Any]


def load_module(path: pathlib.Path) -> Any:
    """A module that is given by its file: one that makes layers, or one that judges models."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays(problem: Any, size: int, cache: pathlib.Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, X and H of one layer, from the cache where it has them."""
    files = None if cache is None else [cache / f"{name}{size}.npy" for name in "WXH"]
    if files is not None and all(file.exists() for file in files):
        w, x, h = (np.load(file) for file in files)
        return w, x, h
    w, x = problem.weight(size, size), problem.acts(2 * size, size)
    return w, x, problem.second_moment(x)


def relative_error(w: np.ndarray, q: np.ndarray, h: np.ndarray) -> float:
    ww, _, _, ee = core.output_error(w, q, h)
    return ee / ww


def textbook_gptq(weight: np.ndarray, hessian: np.ndarray, bits: int, group: int) -> Layer:
    """Frantar et al. 2023 in torch, float32: three factorizations, columns in blocks of 128, min-max grids with an
    integer zero point, 1 % dampening, left to right."""
    w, h = torch.from_numpy(weight.copy()), torch.from_numpy(hessian.copy())
    rows, n, top, block = w.shape[0], w.shape[1], 2**bits - 1, 128
    h.diagonal()[h.diagonal() <= 0] = 1
    h.diagonal().add_(0.01 * h.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    codes = torch.empty((rows, n), dtype=torch.uint8)
    scales, zeros = torch.empty((rows, n // group)), torch.empty((rows, n // group))
    for begin in range(0, n, block):
        end = min(begin + block, n)
        part, errors, u = w[:, begin:end].clone(), torch.zeros((rows, end - begin)), upper[begin:end, begin:end]
        for i in range(end - begin):
            if (begin + i) % group == 0:
                values = part[:, i : i + group]
                low, high = values.amin(1).clamp(max=0), values.amax(1).clamp(min=0)
                scale = ((high - low) / top).clamp(min=1e-12)
                zero = torch.round(-low / scale)
                scales[:, (begin + i) // group], zeros[:, (begin + i) // group] = scale, zero
            code = torch.clamp(torch.round(part[:, i] / scale) + zero, 0, top)
            codes[:, begin + i] = code.to(torch.uint8)
            errors[:, i] = (part[:, i] - scale * (code - zero)) / u[i, i]
            part[:, i:] -= errors[:, i, None] * u[i, i:][None]
        w[:, end:] -= errors @ upper[begin:end, end:]
    packed = core.pack(codes.numpy().ravel(), bits)
    return {"codes": packed, "scales": scales.numpy(), "zero_points": zeros.numpy(), "group_size": group}


def nearest(weight: np.ndarray, bits: int, group: int, threads: int) -> Layer:
    codes, scales, zero_points, size = core.quantize_array(weight, bits, group, False, threads)
    return {"codes": codes, "scales": scales, "zero_points": zero_points, "group_size": size}


def jobs(w: np.ndarray, h: np.ndarray, bits: int, group: int) -> dict[str, Callable[[int], Layer]]:
    """Method -> function of the number of threads."""

    def ours(rounds: int, grid: str = "affine", scaled: bool = False) -> Callable[[int], Layer]:
        return lambda threads: core.round_matrix(w, h, bits, group, grid, "activation", rounds, 0.01, threads, scaled)

    def gptq(threads: int) -> Layer:
        torch.set_num_threads(threads)
        return textbook_gptq(w, h, bits, group)

    methods = {
        "textbook GPTQ (torch)": gptq,
        "nearest, min-max": lambda threads: nearest(w, bits, group, threads),
        "ours, no rounds": ours(0),
        "ours, 2 rounds": ours(2),
        "ours, 4 rounds": ours(4),
        "ours, 2 rounds, column scales": ours(2, scaled=True),
    }
    if bits == 2:
        methods["ours, residual binary, 2 rounds"] = ours(2, "residual_binary")
        methods["ours, residual binary, 2 rounds, column scales"] = ours(2, "residual_binary", True)
    return methods


def values_of(layer: Layer, w: np.ndarray, bits: int) -> np.ndarray:
    grids = [layer[key].ravel() for key in ("scales", "zero_points")]
    rest = layer["residual_scales"].ravel() if "residual_scales" in layer else None
    return core.dequantize_array(
        layer["codes"], *w.shape, bits, layer["group_size"], *grids, rest, layer.get("column_scales")
    )


def bits_on_disk(layer: Layer, w: np.ndarray, bits: int) -> float:
    grid = "residual_binary" if "residual_scales" in layer else "affine"
    rest, columns = (layer.get(key, np.zeros(0, np.float32)) for key in ("residual_scales", "column_scales"))
    with tempfile.TemporaryDirectory() as folder:
        size = core.write_layer(
            f"{folder}/layer.parquet", "layer.weight", list(w.shape), bits, layer["group_size"], grid,
            layer["codes"], layer["scales"], layer["zero_points"], rest, columns,
        )  # fmt: skip
    return 8 * size / w.size


def fastest(job: Callable[[int], Layer], threads: int, repeats: int) -> tuple[float, Layer]:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        layer = job(threads)
        best = min(best, time.perf_counter() - start)
    return best, layer


def table(w: np.ndarray, h: np.ndarray, threads: list[int], repeats: int) -> list[str]:
    """Markdown of one layer, all settings."""
    seconds = "".join(f" s, {n} thread{'s' * (n > 1)} | of GPTQ |" for n in threads)
    lines = [
        f"| | method | error | of GPTQ | bits a weight |{seconds}",
        "|---|---|---|---|---|" + "---|---|" * len(threads),
    ]
    for bits, group in SETTINGS:
        reference: dict[Any, float] = {}
        for name, job in jobs(w, h, bits, group).items():
            times = []
            for n in threads:
                spent, layer = fastest(job, n, repeats)
                times.append(f"{spent:.2f} | {spent / reference.setdefault(n, spent):.2f}")
            error = relative_error(w, values_of(layer, w, bits), h)
            ratio = error / reference.setdefault("error", error)
            stored = bits_on_disk(layer, w, bits)
            row = [f"{bits} bit, g{group}", name, f"{error:.5f}", f"{ratio:.3f}", f"{stored:.2f}", *times]
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    return lines


def second_moment_rates(x: np.ndarray, threads: list[int]) -> list[str]:
    """GFLOP/s of the second-moment update and of a square product by torch's BLAS, taken in turn."""
    rows, n = x.shape
    h = np.zeros((n, n), np.float32)
    a, b = torch.randn(n, n), torch.randn(n, n)
    lines = ["| threads | second moment, GFLOP/s | torch matmul, GFLOP/s | ratio |", "|---|---|---|---|"]
    for count in threads:
        torch.set_num_threads(count)
        ours, peak = float("inf"), float("inf")
        for _ in range(3):
            start = time.perf_counter()
            core.accumulate_second_moment(h, x, count)
            middle = time.perf_counter()
            torch.mm(a, b)
            ours, peak = min(ours, middle - start), min(peak, time.perf_counter() - middle)
        rates = rows * n * (n + 1) / ours / 1e9, 2 * n**3 / peak / 1e9
        lines.append(f"| {count} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[0] / rates[1]:.2f} |")
        print(lines[-1], flush=True)
    return lines


def describe_machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f"Machine: {name}, {core.active_isa()}, commit {head.stdout.strip() or '-'}, `bench/rounding.py`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", type=pathlib.Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--rows", type=int, default=None, help="of the weight; default all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--cache", type=pathlib.Path, default=None, help="holds W2048.npy, X2048.npy, H2048.npy, ...")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    options = parser.parse_args()
    problem = load_module(options.problem)
    text = [describe_machine(), ""]
    for size in options.sizes:
        w, x, h = arrays(problem, size, options.cache)
        w = np.ascontiguousarray(w[: options.rows])
        text += [f"## {w.shape[0]} x {size}", "", *table(w, h, options.threads, options.repeats), ""]
        text += ["The second moment of its inputs.", "", *second_moment_rates(x, options.threads), ""]
        if options.out is not None:
            options.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
