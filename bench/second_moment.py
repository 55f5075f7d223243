"""Second-moment update of a layer's inputs against the peak of BLAS, taken in turn.

usage: second_moment.py [--columns 4096] [--rows 4096 512] [--threads 1 2] [--repeats N] [--out FILE]

The update adds X^T X, of which it computes one triangle: rows * columns * (columns + 1) operations. The peak is the
faster of two products of square float32 matrices of as many columns, in torch and in numpy (each with its own BLAS).
Every figure is the best of the repeats, which go round all of them. Each number of threads has a process of its own, so
that numpy's BLAS keeps to it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import rounding
import torch
from arrow_quant_v2._native import core

Job = Callable[[], object]


def update(h: np.ndarray, x: np.ndarray, threads: int) -> Job:
    return lambda: core.accumulate_second_moment(h, x, threads)


def jobs_of(columns: int, rows: list[int], threads: int) -> dict[str, tuple[Job, float]]:
    """Name -> what runs, and its operations."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((columns, columns), dtype=np.float32) for _ in range(2))
    ta, tb, h = torch.from_numpy(a), torch.from_numpy(b), np.zeros((columns, columns), np.float32)
    product = 2.0 * columns**3
    jobs: dict[str, tuple[Job, float]] = {
        "product, torch": (lambda: torch.mm(ta, tb), product),
        "product, numpy": (lambda: a @ b, product),
    }
    for count in rows:
        x = random.standard_normal((count, columns), dtype=np.float32)
        work = float(count) * columns * (columns + 1)
        jobs[f"update, {count} rows"] = (update(h, x, threads), work)
    return jobs


def rates(jobs: dict[str, tuple[Job, float]], repeats: int) -> dict[str, float]:
    """GFLOP/s."""
    best = dict.fromkeys(jobs, math.inf)
    for _ in range(repeats):
        for name, (job, _) in jobs.items():
            start = time.perf_counter()
            job()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: work / best[name] / 1e9 for name, (_, work) in jobs.items()}


def rates_apart(options: argparse.Namespace, threads: int) -> dict[str, float]:
    """The same in a process of its own."""
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--measure", str(threads), "--columns", str(options.columns)]
    command += ["--repeats", str(options.repeats), "--rows", *map(str, options.rows)]
    run = subprocess.run(command, env={**os.environ, **limits}, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(run.stdout)
    return result


def table(options: argparse.Namespace) -> list[str]:
    lines = [f"| {options.columns} columns | threads | GFLOP/s | of the peak |", "|---|---|---|---|"]
    for count in options.threads:
        measured = rates_apart(options, count)
        peak = max(rate for name, rate in measured.items() if name.startswith("product"))
        for name, rate in measured.items():
            lines.append(f"| {name} | {count} | {rate:.0f} | {rate / peak:.2f} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--remark", default="", help="a sentence about the machine for the top")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(options.measure)
        print(json.dumps(rates(jobs_of(options.columns, options.rows, options.measure), options.repeats)))
        return
    machine = rounding.describe_machine().replace("bench/rounding.py", "bench/second_moment.py")
    lines = [machine, "", *([options.remark, ""] if options.remark else [])]
    lines += table(options)
    if options.out is not None:
        options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
