"""Time-aware parameters of one layer from numpy arrays and statistics, without torch."""

from __future__ import annotations

import numpy as np
import pytest
from arrow_quant_v2 import (
    ActivationRanges,
    ConfigurationError,
    DiffusionQuantConfig,
    ShapeMismatchError,
    TimeAwareQuantizer,
    quantize_layer,
)
from arrow_quant_v2._native import core
from hypothesis import given, settings
from hypothesis import strategies as st

CHANNELS, OUTPUTS = 96, 24
LOUDNESS = (0.1, 0.5, 2.0, 8.0)


@pytest.fixture(scope="module")
def statistics():
    made = core.ActivationStatistics([0.0, 250.0, 500.0, 750.0, 1000.0])
    made.map_layer("", "q.weight", [made.add_input(CHANNELS)])
    rng = np.random.default_rng(0)
    for group, loudness in enumerate(LOUDNESS):
        for held_out in (False, True):
            rows = loudness * (rng.standard_normal((64, CHANNELS)) + 1)
            made.update(0, rows.astype(np.float32), 250.0 * group, held_out=held_out)
    return made


@pytest.fixture(scope="module")
def weight():
    return np.random.default_rng(1).standard_normal((OUTPUTS, CHANNELS)).astype(np.float32)


def quantizer(**options):
    return TimeAwareQuantizer(DiffusionQuantConfig(**{"num_time_groups": 4, **options}))


def test_codes_of_each_group_are_as_fine_as_its_inputs(statistics, weight):
    ranges = quantizer(activation_range="min_max").ranges(weight, statistics, "q.weight")
    assert ranges.report["method"] == "time_aware"
    assert ranges.report["error"] < ranges.report["shared_error"]
    assert ranges.block_sizes == (64, 64, 96, 96)
    rng = np.random.default_rng(2)
    for group, loudness in enumerate(LOUDNESS):
        x = (loudness * rng.uniform(-1, 2, (50, CHANNELS))).astype(np.float32)
        time = 250.0 * group + 10
        back = ranges.decode(ranges.encode(x, time), time)
        assert np.abs(back - x).max() < 10 * loudness / 255
        coarse = ranges.decode(ranges.encode(x, time, bits=4), time, bits=4)
        assert np.abs(back - x).mean() < np.abs(coarse - x).mean() < 10 * loudness / 15


def test_one_group_is_one_range(statistics, weight):
    ranges = quantizer(num_time_groups=1).ranges(weight, statistics, "q.weight")
    assert (len(ranges.scales), ranges.boundaries) == (1, (0.0, 1000.0))
    assert ranges.report["method"] == "shared"
    assert ranges.fallback_cause == ""


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(1, 8))
def test_every_time_has_codes_and_zero_is_exact(time, bits):
    ranges = ActivationRanges(
        (0.0, 10.0, 1000.0),
        (2, 3),
        3,
        1,
        np.array([0.1, 2, 7], np.float32),
        np.array([0, 255, 100], np.float32),
        {},
        "",
    )
    codes = ranges.encode(np.zeros((2, 3)), time, bits)
    assert codes.max() < 2**bits
    np.testing.assert_array_equal(ranges.decode(codes, time, bits), np.zeros((2, 3)))


def test_a_correction_makes_outputs_better_where_it_is_kept(statistics, weight):
    quantized = 0.8 * weight
    kept = quantizer(num_time_groups=1).corrections(weight, quantized, statistics, "q.weight")
    assert kept.report["kind"] == "gain_and_bias"
    x = np.concatenate([statistics.input(0).held_out(g) for g in range(4)])
    want, got = x @ weight.T, x @ quantized.T
    assert np.square(kept.apply(got, 500) - want).sum() < 0.1 * np.square(got - want).sum()
    layer = quantize_layer(weight, bit_width=8)
    none = quantizer().corrections(weight, layer.dequantize(), statistics, "q.weight")
    assert none.report["kind"] == "none"
    np.testing.assert_array_equal(none.apply(got, 3), got)


def test_what_does_not_fit_says_so(statistics, weight):
    with pytest.raises(ShapeMismatchError, match="never reached"):
        quantizer().ranges(weight, statistics, "other.weight")
    with pytest.raises(ShapeMismatchError, match="96 channels, the layer 48"):
        quantizer().ranges(weight[:, :48], statistics, "q.weight")
    with pytest.raises(ShapeMismatchError, match="taps"):
        quantizer().ranges(weight, statistics, "q.weight", taps=7)
    with pytest.raises(ShapeMismatchError, match="different shapes"):
        quantizer().corrections(weight, weight[:3], statistics, "q.weight")
    ranges = quantizer().ranges(weight, statistics, "q.weight")
    with pytest.raises(ShapeMismatchError, match="96 channels"):
        ranges.encode(np.zeros((2, 5)), 0)
    with pytest.raises(ConfigurationError, match="bits is 9"):
        ranges.encode(np.zeros((2, CHANNELS)), 0, bits=9)


def test_time_groups_cover_the_steps():
    assert quantizer(num_time_groups=10).time_groups(1000) == [100.0 * i for i in range(11)]
    assert quantizer(num_time_groups=10).time_groups(3) == [0.0, 1.0, 2.0, 3.0]
