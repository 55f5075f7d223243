"""What gains of input channels per time group would be worth: the a_t of y = Q (a_t x), one per block of channels.

usage: input_gains.py --model DIR --statistics FILE --quantized DIR [--block-early N] [--block-late N]

For every layer and time group the gains are fitted by ridge least squares on the second moment around 1, minimizing
E |W x - Q diag(a) x|^2, and judged on the held-out rows, alone and beside the biases beta_t and gains gamma_t of
outputs (see arrow_quant/quantize/time_aware/output_correction.h). DIR are the source and the quantized model, FILE its
statistics with a second moment per time group.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
from arrow_quant_v2 import QuantizedModel
from arrow_quant_v2._native import core
from arrow_quant_v2.safetensors_source import SafetensorsSource

Array = npt.NDArray[np.float64]
RIDGE = 0.01  # of the mean diagonal
LEAST_ROWS = 4
WAYS = ("as it is", "beta_t", "gamma_t and beta_t", "a_t", "a_t and beta_t")


def input_gains(weight: Array, quantized: Array, moment: Array, block: int) -> Array:
    """Gains [channels], equal within blocks of ``block`` channels, for weights [outputs, channels]."""
    channels = len(moment)
    of_block = np.arange(channels) // block
    member = np.zeros((channels, of_block[-1] + 1))
    member[np.arange(channels), of_block] = 1
    normal = member.T @ ((quantized.T @ quantized) * moment) @ member
    right = member.T @ np.einsum("rc,rc->c", quantized, weight @ moment)
    ridge = RIDGE * np.trace(normal) / len(normal)
    gains = np.linalg.solve(normal + ridge * np.eye(len(normal)), right + ridge)
    return np.asarray(gains[of_block])


def output_gains(weight: Array, quantized: Array, covariance: Array) -> Array:
    """Gains [outputs]: <Q, W>_C / <Q, Q>_C with the same ridge."""
    image = quantized @ covariance
    energy = np.einsum("rc,rc->r", image, quantized)
    ridge = RIDGE * energy.mean()
    return np.asarray((np.einsum("rc,rc->r", image, weight) + ridge) / (energy + ridge))


def errors_of_group(weight: Array, quantized: Array, seen: Any, group: int, groups: int, block: int) -> Array | None:
    """Squared output error on held-out rows in the order of WAYS, then the energy of the outputs; None without rows."""
    rows = seen.held_out(group).astype(np.float64)
    if len(rows) < LEAST_ROWS:
        return None
    moment = seen.second_moment([float(g == group) for g in range(groups)]).astype(np.float64)
    mean = seen.channel_moments(group)["mean"]
    scaled = quantized * input_gains(weight, quantized, moment, block)
    gamma = output_gains(weight, quantized, moment - np.outer(mean, mean))[:, None] * quantized
    wanted = rows @ weight.T
    found = [
        rows @ quantized.T, rows @ quantized.T + (weight - quantized) @ mean, rows @ gamma.T + (weight - gamma) @ mean,
        rows @ scaled.T, rows @ scaled.T + (weight - scaled) @ mean,
    ]  # fmt: skip
    return np.array([*(np.square(wanted - y).sum() for y in found), np.square(wanted).sum()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--statistics", type=pathlib.Path, required=True)
    parser.add_argument("--quantized", type=pathlib.Path, required=True)
    parser.add_argument("--block-early", type=int, default=256)
    parser.add_argument("--block-late", type=int, default=64)
    arguments = parser.parse_args()
    statistics = core.StatisticsFile(str(arguments.statistics))
    source, inputs = SafetensorsSource(arguments.model), dict(statistics.layers())
    groups = len(statistics.boundaries) - 1
    blocks = [arguments.block_early if g >= groups - groups // 2 else arguments.block_late for g in range(groups)]
    errors, bits = [], []
    for tensor in QuantizedModel(arguments.quantized):
        numbers = inputs.get(("", tensor.name), [])
        if not tensor.quantized or len(numbers) != 1:
            continue
        weight = source.read(("", tensor.name)).to_float32().astype(np.float64).reshape(tensor.shape[0], -1)
        quantized = np.array(tensor.dequantize(), dtype=np.float64).reshape(weight.shape)
        seen = statistics.input(numbers[0])
        parts = [errors_of_group(weight, quantized, seen, g, groups, blocks[g]) for g in range(groups)]
        total = sum(part for part in parts if part is not None)
        errors.append(total[:-1] / total[-1])
        bits.append((32 * groups * len(weight), 32 * sum(-(-weight.shape[1] // b) for b in blocks), weight.size))
    mean = np.mean(errors, axis=0)
    print(f"{len(errors)} layers, relative output error on held-out rows:")
    for way, error in zip(WAYS, mean, strict=True):
        print(f"  {way:20} {error:.6f}  {100 * (error / mean[0] - 1):+.2f} %")
    beta, gains, weights = np.sum(bits, axis=0)
    print(f"bits per weight: beta_t {beta / weights:.4f}, a_t {gains / weights:.4f}")
    print(f"those bits in finer codes lower the error by {100 * (1 - 2 ** (-2 * gains / weights)):.2f} %")


if __name__ == "__main__":
    main()
