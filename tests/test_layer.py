"""quantize_layer against a numpy reference, and its properties."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from arrow_quant_v2 import ConfigurationError, QuantizationError, ShapeMismatchError, quantize_layer
from arrow_quant_v2._native import core
from helpers import unpack
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

BITS = st.sampled_from([2, 3, 4, 8])
GROUPS = st.sampled_from([16, 32, 64, 128, 256, -1])
FITS = st.sampled_from(["min_max", "fitted"])
WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=40),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=True),
)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, BITS, GROUPS, FITS)
def test_dequantize_is_the_formula(weight, bits, group, fit):
    layer = quantize_layer(weight, None, bits, group, fit=fit)
    rows = layer.scales.shape[0]
    codes = unpack(layer.codes, weight.size, bits).reshape(rows, -1).astype(np.float32)
    at = np.arange(codes.shape[1]) // layer.group_size
    expected = layer.scales[:, at] * (codes - layer.zero_points[:, at])
    np.testing.assert_array_equal(layer.dequantize(), expected.reshape(weight.shape))


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, BITS, GROUPS)
def test_min_max_error_is_at_most_half_a_step(weight, bits, group):
    layer = quantize_layer(weight, None, bits, group)
    rows = layer.scales.shape[0]
    error = np.abs(layer.dequantize().reshape(rows, -1).astype(np.float64) - weight.reshape(rows, -1))
    step = layer.scales[:, np.arange(error.shape[1]) // layer.group_size].astype(np.float64)
    # The float32 arithmetic of w / s + z and s * (q - z) may add a few units in the last place of the largest weight.
    slack = 4 * np.spacing(np.abs(weight).max(initial=0).astype(np.float32))
    assert (error <= 0.5 * step + slack).all()


@settings(max_examples=100, deadline=None)
@given(WEIGHTS, BITS, GROUPS, FITS)
def test_everything_is_finite_and_shapes_stay(weight, bits, group, fit):
    layer = quantize_layer(weight, None, bits, group, fit=fit)
    assert layer.dequantize().shape == weight.shape
    assert np.isfinite(layer.dequantize()).all()
    assert (layer.scales > 0).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), BITS)
def test_values_on_a_grid_are_reproduced(seed, rows, bits):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, 64))
    codes[:, 0], codes[:, 1] = 0, 2**bits - 1
    weight = (codes.astype(np.float32) - 2 ** (bits - 1)) * np.float32(0.25)
    np.testing.assert_array_equal(quantize_layer(weight, None, bits, 64).dequantize(), weight)


@settings(max_examples=100, deadline=None)
@given(WEIGHTS, BITS, GROUPS, FITS)
def test_threads_give_the_same_bytes(weight, bits, group, fit):
    one, two = (quantize_layer(weight, None, bits, group, fit=fit, num_threads=n) for n in (1, 2))
    assert one.codes.tobytes() == two.codes.tobytes()
    assert one.scales.tobytes() == two.scales.tobytes()
    assert one.zero_points.tobytes() == two.zero_points.tobytes()


_DIGEST = """
import hashlib, numpy as np
from arrow_quant_v2 import quantize_layer
w = np.random.default_rng(0).standard_normal((200, 333)).astype(np.float32)
w[0] = 0; w[1] = 1e-40; w[2] *= 1e30
h = hashlib.sha256()
for bits in (2, 3, 4, 8):
    for fit in ("min_max", "fitted"):
        layer = quantize_layer(w, None, bits, 64, fit=fit)
        for part in (layer.codes, layer.scales, layer.zero_points, layer.dequantize()):
            h.update(part.tobytes())
print(h.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bytes():
    digests = {}
    for isa in ("scalar", "avx2", "avx512"):
        environment = {**os.environ, "ARROW_QUANT_ISA": isa}
        run = subprocess.run([sys.executable, "-c", _DIGEST], env=environment, capture_output=True, text=True)
        if run.returncode == 0:
            digests[isa] = run.stdout
        else:
            assert "not supported by this CPU" in run.stderr, run.stderr
    assert "scalar" in digests
    assert len(set(digests.values())) == 1


def test_one_nan_is_named():
    weight = np.zeros((4, 32), np.float32)
    weight[1, 5] = np.nan
    with pytest.raises(QuantizationError, match="index 37"):
        quantize_layer(weight)


@pytest.mark.parametrize(("arguments", "error"), [
    ({"bit_width": 5}, ConfigurationError),
    ({"group_size": 0}, ConfigurationError),
    ({"fit": "best"}, ConfigurationError),
])  # fmt: skip
def test_bad_arguments(arguments, error):
    with pytest.raises(error):
        quantize_layer(np.ones((2, 2)), **arguments)


def test_empty_weight_is_refused():
    with pytest.raises(ShapeMismatchError):
        quantize_layer(np.zeros((0, 4)))


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.uint8, st.integers(0, 300)), BITS)
def test_packing_is_invertible(codes, bits):
    codes &= 2**bits - 1
    packed = core.pack(codes, bits)
    assert packed.size == (codes.size * bits + 7) // 8
    np.testing.assert_array_equal(core.unpack(packed, codes.size, bits), codes)
    np.testing.assert_array_equal(unpack(packed, codes.size, bits), codes)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, BITS, GROUPS, FITS)
def test_rounding_again_on_the_same_grid_changes_nothing(weight, bits, group, fit):
    layer = quantize_layer(weight, None, bits, group, fit=fit)
    rows = layer.scales.shape[0]
    at = np.arange(weight.size // rows) // layer.group_size
    scales, zeros = layer.scales[:, at], layer.zero_points[:, at]
    again = np.clip(np.rint(layer.dequantize().reshape(rows, -1) / scales + zeros), 0, 2**bits - 1)
    # Where the zero point is so large that float32 cannot tell neighbouring codes apart, values still agree.
    values = scales * (again.astype(np.float32) - zeros)
    np.testing.assert_array_equal(values.reshape(weight.shape), layer.dequantize())
