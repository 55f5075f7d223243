"""Speed of the kernels and of the whole command, beside numpy, torch and the scalar twin, in one run.

usage: run.py [--weights N_MILLION] [--skip-command] [--out FILE]

Kernels run on one thread over float32 weights in memory; each figure is the best of several repeats, in million weights
a second. The command quantizes a float16 model of 1 GB on all CPUs, reading and writing included.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

GROUP = 64
COLS = 4096
Jobs = dict[str, Callable[[], object]]


def best_rate(job: Callable[[], object], weights: int, seconds: float = 1.5) -> float:
    """Million weights a second of the fastest run within about ``seconds``, after a warm-up."""
    job()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        job()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return weights / best / 1e6


def our_jobs(w: np.ndarray) -> Jobs:
    """The product's kernels, with whatever instruction set is active."""
    from arrow_quant_v2._native import core

    rows, cols = w.shape
    jobs: Jobs = {}
    for bits in (8, 4, 2):
        jobs[f"min-max INT{bits}"] = lambda bits=bits: core.quantize_array(w, bits, GROUP, False, 1)
    for bits in (4, 2):
        jobs[f"fitted INT{bits}"] = lambda bits=bits: core.quantize_array(w, bits, GROUP, True, 1)
    codes = np.random.default_rng(0).integers(0, 16, w.size, dtype=np.uint8)
    packed = core.pack(codes, 4)
    jobs["pack 4"] = lambda: core.pack(codes, 4)
    jobs["unpack 4"] = lambda: core.unpack(packed, w.size, 4)
    stored, scales, zeros, group = core.quantize_array(w, 4, GROUP, False, 1)
    jobs["dequantize 4"] = lambda: core.dequantize_array(stored, rows, cols, 4, group, scales.ravel(), zeros.ravel())
    flat = w.ravel()
    other = flat[::-1].copy()
    jobs["cosine"] = lambda: core.error_sums(flat, other)
    return jobs


def numpy_jobs(w: np.ndarray) -> Jobs:
    """The same work in numpy; codes of 4 bits are packed by shifts."""

    def quantize(bits: int) -> np.ndarray:
        g = w.reshape(-1, GROUP)
        low, high = g.min(1, keepdims=True), g.max(1, keepdims=True)
        scale = (high - low) / np.float32(2**bits - 1)
        codes = np.clip(np.rint((g - low) / scale), 0, 2**bits - 1).astype(np.uint8).ravel()
        return pack(codes, bits)

    def pack(codes: np.ndarray, bits: int) -> np.ndarray:
        per_byte = 8 // bits
        parts = codes.reshape(-1, per_byte)
        out = parts[:, 0].copy()
        for i in range(1, per_byte):
            out |= parts[:, i] << (bits * i)
        return out

    codes = np.random.default_rng(0).integers(0, 16, w.size, dtype=np.uint8)
    packed = pack(codes, 4)

    def unpack() -> np.ndarray:
        return np.stack([packed & 15, packed >> 4], 1).ravel()

    scales = np.ones((w.size // GROUP, 1), np.float32)
    flat, other = w.ravel(), w.ravel()[::-1].copy()
    return {
        **{f"min-max INT{b}": lambda b=b: quantize(b) for b in (8, 4, 2)},
        "pack 4": lambda: pack(codes, 4),
        "unpack 4": unpack,
        "dequantize 4": lambda: scales * (unpack().reshape(-1, GROUP).astype(np.float32) - scales),
        "cosine": lambda: (flat @ flat, flat @ other, other @ other),
    }


def torch_jobs(w: np.ndarray) -> Jobs:
    """The same work in torch, one thread."""
    import torch

    torch.set_num_threads(1)
    x = torch.from_numpy(w)

    def quantize(bits: int) -> torch.Tensor:
        g = x.reshape(-1, GROUP)
        low, high = g.amin(1, keepdim=True), g.amax(1, keepdim=True)
        scale = (high - low) / (2**bits - 1)
        codes = ((g - low) / scale).round_().clamp_(0, 2**bits - 1).to(torch.uint8).flatten()
        return pack(codes, bits)

    def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
        per_byte = 8 // bits
        parts = codes.reshape(-1, per_byte)
        out = parts[:, 0].clone()
        for i in range(1, per_byte):
            out |= parts[:, i] << (bits * i)
        return out

    codes = torch.randint(0, 16, (x.numel(),), dtype=torch.uint8)
    packed = pack(codes, 4)

    def unpack() -> torch.Tensor:
        return torch.stack([packed & 15, packed >> 4], 1).flatten()

    scales = torch.ones(x.numel() // GROUP, 1)
    flat, other = x.flatten(), x.flatten().flip(0)
    return {
        **{f"min-max INT{b}": lambda b=b: quantize(b) for b in (8, 4, 2)},
        "pack 4": lambda: pack(codes, 4),
        "unpack 4": unpack,
        "dequantize 4": lambda: scales * (unpack().reshape(-1, GROUP).float() - scales),
        "cosine": lambda: (flat @ flat, flat @ other, other @ other),
    }


def measure(who: str, weights: int) -> dict[str, float]:
    """Rates of one contestant."""
    w = (np.random.default_rng(1).standard_normal((weights // COLS, COLS)) * 0.02).astype(np.float32)
    jobs = {"numpy": numpy_jobs, "torch": torch_jobs}.get(who, our_jobs)(w)
    return {name: best_rate(job, w.size) for name, job in jobs.items()}


def measure_apart(who: str, weights: int) -> dict[str, float]:
    """The same in a process of its own, where the instruction set can be forced and threads limited."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if who not in ("numpy", "torch"):
        environment["ARROW_QUANT_ISA"] = who
    command = [sys.executable, __file__, "--measure", who, "--weights", str(weights // 10**6)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        print(f"{who} left out: {run.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return {}
    result: dict[str, float] = json.loads(run.stdout)
    return result


def make_gigabyte_model(path: pathlib.Path) -> int:
    """Eight float16 matrices of 8192 x 8192, 1.07 GB; returns the number of weights."""
    block = (np.random.default_rng(2).standard_normal(1 << 22) * 0.02).astype(np.float16)
    size = 8192 * 8192
    names = [f"blocks.{i}.attn.to_q.weight" for i in range(8)]
    header = {
        name: {"dtype": "F16", "shape": [8192, 8192], "data_offsets": [2 * i * size, 2 * (i + 1) * size]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i in range(8 * size // block.size):
            file.write(np.roll(block, 977 * i).tobytes())
    return 8 * size


def command_rows() -> list[str]:
    """Seconds, rate and peak memory of the whole command."""
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        source = pathlib.Path(folder) / "model.safetensors"
        weights = make_gigabyte_model(source)
        for bits, fit in ((8, "auto"), (4, "auto"), (2, "auto"), (4, "fitted")):
            output = str(pathlib.Path(folder) / "out")
            command = [
                sys.executable,
                "-m",
                "arrow_quant_v2.cli.main",
                "quantize",
                str(source),
                output,
                "--mode",
                "base",
            ]
            command += ["--bits", str(bits), "--fit", fit, "--group-size", str(GROUP), "--min-accuracy", "0"]
            start = time.perf_counter()
            run = subprocess.run([*command, "--overwrite", "--json"], capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - start
            result = json.loads(run.stdout)
            memory, stored = result["peak_memory_mb"], result["bits_per_weight"]
            name = f"INT{bits}" + (" fitted" if fit == "fitted" else "")
            rows.append(f"| {name} | {seconds:.2f} | {weights / seconds / 1e6:.0f} | {memory:.0f} | {stored:.2f} |")
    return rows


def machine() -> str:
    model = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return (
        f"{model}, {os.cpu_count()} CPUs, commit {commit or 'unknown'}, `{' '.join(['bench/run.py', *sys.argv[1:]])}`"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=int, default=16, help="million weights")
    parser.add_argument("--skip-command", action="store_true")
    parser.add_argument("--out", default="bench/results/speed.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    weights = arguments.weights * 10**6 // COLS * COLS
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, weights)))
        return
    contestants = ("avx512", "avx2", "scalar", "torch", "numpy")
    rates = {who: measure_apart(who, weights) for who in contestants}
    lines = [f"Machine: {machine()}", "", "Million weights a second, one thread, group 64.", ""]
    lines += ["| | " + " | ".join(contestants) + " |", "|" + "---|" * (len(contestants) + 1)]
    names = list(dict.fromkeys(name for rate in rates.values() for name in rate))
    for name in names:
        cells = [f"{rates[who][name]:.0f}" if name in rates[who] else "-" for who in contestants]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if not arguments.skip_command:
        lines += ["", "The command on a 1.07 GB float16 model, reading and writing included.", ""]
        lines += [
            "| | seconds | million weights a second | peak MB | bits a weight |",
            "|---|---|---|---|---|",
            *command_rows(),
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    out = pathlib.Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
