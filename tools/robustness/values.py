"""Values of weights."""

from __future__ import annotations

import pathlib

import ml_dtypes
import numpy as np

from robustness.observe import expect, kept, layers, make_model, normal, quantize, refused, stored

NAME = "blocks.0.attn.to_q.weight"


def constant_groups(folder: pathlib.Path) -> str:
    weight = normal(8, 64)
    weight[0] = 0
    weight[1] = 0.37
    result = quantize(make_model(folder / "m", {NAME: weight}), folder / "q", group_size=64)
    tensor = stored(folder / "q")[NAME]
    counted = layers(result)[NAME]["constant_groups"]
    expect(counted == 2, f"{counted} counted")
    expect(np.array_equal(tensor.dequantize()[:2], weight[:2]), f"they come back as {tensor.dequantize()[:2, 0]}")
    expect(np.isfinite(tensor.scales).all() and (tensor.scales > 0).all(), "scales are not positive")
    return "both groups come back exactly; 2 constant groups counted; every scale is positive"


def extremes(folder: pathlib.Path) -> str:
    tensors = {
        "blocks.0.attn.to_q.weight": np.full((8, 64), 1e-6, np.float16) * np.float16(1),
        "blocks.1.attn.to_q.weight": normal(8, 64) * np.float32(1e-40),
        "blocks.2.attn.to_q.weight": (normal(8, 64) * 1e6).astype(ml_dtypes.bfloat16),
        "blocks.3.attn.to_q.weight": np.array([65504, -65504] * 256, np.float16).reshape(8, 64),
    }
    quantize(make_model(folder / "m", tensors), folder / "q", group_size=64, bit_width=8)
    texts = []
    for name, tensor in stored(folder / "q").items():
        weight = tensors[name].astype(np.float32)
        expect(np.isfinite(tensor.scales).all() and np.isfinite(tensor.dequantize()).all(), f"{name} is not finite")
        error = np.abs(tensor.dequantize().astype(np.float64) - weight).max()
        expect(error <= tensor.scales.max() * 0.5001, f"{name}: error {error:.2g}, step {tensor.scales.max():.2g}")
        texts.append(f"{tensor.scales.max():.1e}")
    return f"all finite; every weight within half a step; largest steps {', '.join(texts)}"


def outliers(folder: pathlib.Path) -> str:
    weight = normal(8, 64)
    weight[0, 0], weight[1, 1] = 3e38, -1e30
    quantize(make_model(folder / "m", {NAME: weight}), folder / "q", group_size=64)
    tensor = stored(folder / "q")[NAME]
    expect(np.isfinite(tensor.dequantize()).all() and np.isfinite(tensor.scales).all(), "not finite")
    error = np.abs(tensor.dequantize().astype(np.float64) - weight).max(axis=1)
    expect((error <= tensor.scales.astype(np.float64) * 0.5001).all(), f"errors {error[:2]}, steps {tensor.scales[:2]}")
    return "every scale and value is finite, every weight within half a step of its row"


def non_finite(folder: pathlib.Path, value: str) -> str:
    weight = normal(16, 64)
    weight[3, 4] = float(value)
    source = make_model(folder / "m", {NAME: weight, "blocks.1.attn.to_q.weight": normal(16, 64)})
    message = refused(lambda: quantize(source, folder / "q"), "quantization", NAME, "196", folder=folder)
    result = quantize(source, folder / "q", on_nonfinite="keep")
    tensor = stored(folder / "q")[NAME]
    expect(NAME in kept(result) and tensor.data.tobytes() == weight.tobytes(), "keep does not keep the bytes")
    return f"{message} With keep: kept unchanged and listed, the other layer is quantized"
