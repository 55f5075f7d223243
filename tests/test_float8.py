"""8-bit float weights with scales beside them."""

from __future__ import annotations

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel, UnsupportedModelError
from helpers import write_safetensors

BASE = ArrowQuantV2("base")
NAME = "blocks.0.attn.to_q.weight"
FORMATS = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def weights(shape: tuple[int, ...], dtype: type = ml_dtypes.float8_e4m3fn) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 40, shape).astype(dtype)


def model(path: pathlib.Path, weight: np.ndarray, scale: np.ndarray, scale_name: str, **more: np.ndarray):
    path.mkdir()
    write_safetensors(path / "model.safetensors", {NAME: weight, scale_name: scale, **more})
    return path


def expand(scale: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Reference: each scale repeated over its block, cut to the weight."""
    if scale.size == 1:
        return np.full(shape, scale.reshape(()), np.float32)
    if scale.shape == (shape[0], 1):
        return np.broadcast_to(scale.astype(np.float32), shape)
    return np.kron(scale.astype(np.float32), np.ones((128, 128), np.float32))[: shape[0], : shape[1]]


SCALES = {
    "tensor": ("weight_scale", ()),
    "tensor_1": ("weight_scale", (1,)),
    "comfy": ("scale_weight", (1,)),
    "row": ("weight_scale", (300, 1)),
    "block": ("weight_scale_inv", (3, 2)),
}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("scale_dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", SCALES)
def test_scales_are_applied(tmp_path, dtype, scale_dtype, kind):
    ending, shape = SCALES[kind]
    scale_name = NAME.replace("weight", ending)
    scale = np.random.default_rng(1).uniform(0.001, 0.1, shape).astype(scale_dtype)
    weight = weights((300, 200), dtype)
    source = model(tmp_path / "m", weight, np.asarray(scale), scale_name)
    result = BASE.quantize(source, tmp_path / "q", 8, 64)
    (stored,) = QuantizedModel(tmp_path / "q")
    want = weight.astype(np.float32) * expand(np.asarray(scale), (300, 200))
    error = np.abs(stored.dequantize() - want)
    # Half a step, and the rounding of float32.
    steps = np.repeat(stored.scales.reshape(300, 4), 64, axis=1)[:, :200]
    assert (error <= steps * 0.5001).all()
    assert steps.max() < np.ptp(want, axis=1).max() / 200
    assert stored.dtype == "bfloat16"
    assert result["merged"] == [{"name": scale_name, "component": "", "into": NAME}]
    assert BASE.validate_quality(source, tmp_path / "q", 0.999)["passed"]
    plan = BASE.plan(source)
    assert [layer["name"] for layer in plan["layers"]] == [NAME]
    assert plan["merged"] == result["merged"]


def test_a_kept_weight_is_stored_as_bfloat16(tmp_path):
    scale = np.array(0.25, np.float32)
    source = model(tmp_path / "m", weights((64, 64)), scale, NAME + "_scale")
    config = DiffusionQuantConfig(keep_patterns=["to_q"])
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config)
    (stored,) = QuantizedModel(tmp_path / "q")
    # Three bits of mantissa and a power of two: exact in bfloat16.
    want = (weights((64, 64)).astype(np.float32) * 0.25).astype(ml_dtypes.bfloat16)
    assert stored.data.tobytes() == want.tobytes()
    assert (stored.dtype, stored.bits) == ("bfloat16", 0)
    assert "scale applied" in result["kept"][0]["reason"]
    assert BASE.validate_quality(source, tmp_path / "q")["passed"]


def test_a_single_scale_fits_any_rank(tmp_path):
    weight = weights((16, 8, 3, 3))
    source = model(tmp_path / "m", weight, np.array([0.5], np.float32), NAME + "_scale")
    BASE.quantize(source, tmp_path / "q", 8, -1)
    (stored,) = QuantizedModel(tmp_path / "q")
    assert np.corrcoef(stored.dequantize().ravel(), weight.astype(np.float32).ravel())[0, 1] > 0.999
    np.testing.assert_allclose(stored.dequantize(), weight.astype(np.float32) * 0.5, atol=0.5)


def test_activation_scales_are_merged_too(tmp_path):
    more = {NAME.replace("weight", "input_scale"): np.array(2.0, np.float32), "scaled_fp8": np.zeros(2, np.float32)}
    source = model(tmp_path / "m", weights((64, 64)), np.array(0.5, np.float32), NAME + "_scale", **more)
    result = BASE.quantize(source, tmp_path / "q")
    assert {m["name"] for m in result["merged"]} == {NAME + "_scale", NAME.replace("weight", "input_scale")}
    assert [k["name"] for k in result["kept"]] == ["scaled_fp8"]


@pytest.mark.parametrize(
    ("scale_name", "shape"),
    [
        (NAME + "_scale", (3, 2)), (NAME + "_scale", (200,)), (NAME + "_scale", (300, 200)),
        (NAME + "_scale_inv", (2, 2)), (NAME.replace("weight", "scale"), ()), (NAME.replace("weight", "scale_inv"), ()),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_refused_by_name(tmp_path, scale_name, shape):
    source = model(tmp_path / "m", weights((300, 200)), np.ones(shape, np.float32), scale_name)
    for act in (lambda: BASE.quantize(source, tmp_path / "q"), lambda: BASE.plan(source)):
        with pytest.raises(UnsupportedModelError, match=NAME.replace(".", r"\.")) as caught:
            act()
        assert scale_name in str(caught.value)
    assert not (tmp_path / "q").exists()


def test_another_block_size_in_the_configuration_is_refused(tmp_path):
    source = model(tmp_path / "m", weights((300, 200)), np.ones((3, 2), np.float32), NAME + "_scale_inv")
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [112, 104]}}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="weight_block_size"):
        BASE.quantize(source, tmp_path / "q")


def test_nan_in_a_scaled_weight_is_named(tmp_path):
    weight = weights((64, 64))
    weight[1, 2] = np.nan
    source = model(tmp_path / "m", weight, np.array(0.5, np.float32), NAME + "_scale")
    with pytest.raises(Exception, match=r"to_q\.weight.*index 66"):
        BASE.quantize(source, tmp_path / "q")
