"""Bits by measured errors: the choice, its limits, and that it stays the same however the run goes."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig, QuantizedModel
from arrow_quant_v2._native import core
from helpers import digest, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

BASE = ArrowQuantV2("base")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """Layers of several sizes; every second one has nearly two values only, which few bits can hold."""
    folder = tmp_path_factory.mktemp("source") / "m"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(6):
        weight = rng.standard_normal((64 + 32 * i, 128)).astype(np.float32)
        if i % 2:
            weight = np.sign(weight) + 0.01 * weight
        tensors[f"blocks.{i}.attn.to_q.weight"] = weight
        tensors[f"blocks.{i}.attn.to_q.bias"] = rng.standard_normal(64 + 32 * i).astype(np.float32)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def config(**options) -> DiffusionQuantConfig:
    options = {"group_size": 32, "min_accuracy": 0.0, "calibration": "none", "enable_mixed_precision": True, **options}
    return DiffusionQuantConfig(**{"target_size_mb": None, **options})


def run(source, output, **options):
    return BASE.quantize_diffusion_model(source, output, config(**options), overwrite=True)


def bits_of(path) -> dict[str, int]:
    return {t.name: t.bits for t in QuantizedModel(path) if len(t.shape) == 2}


@given(
    layers=st.lists(st.tuples(st.integers(16, 4000), st.floats(1e-3, 10)), min_size=1, max_size=12),
    part=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_no_one_width_is_better_at_its_own_size(layers, part):
    choices = [[(b, n * b // 8 + 8, s * 4.0**-b) for b in (2, 3, 4, 8)] + [(16, 2 * n, 0.0)] for n, s in layers]
    for place in range(5):
        size = sum(layer[place][1] for layer in choices)
        _, used, cost = core.allocate_bits(choices, size)
        assert used <= size
        assert cost <= sum(layer[place][2] for layer in choices)
    low, high = (sum(layer[i][1] for layer in choices) for i in (0, 4))
    budget = low + int(part * (high - low))
    _, used, cost = core.allocate_bits(choices, budget)
    assert used <= budget
    assert cost <= core.allocate_bits(choices, budget, "greedy")[2]


def test_without_a_size_it_is_no_worse_than_bit_width_and_no_larger(tmp_path, source):
    result = run(source, tmp_path / "q", bit_width=4)
    chosen = result["mixed_precision"]
    uniform = next(u for u in chosen["uniform"] if u["bits"] == 4)
    assert chosen["expected_bytes"] <= uniform["bytes"]
    assert chosen["error"] < uniform["error"]
    assert chosen["error"] <= chosen["greedy_error"]
    assert len(set(bits_of(tmp_path / "q").values())) > 1
    assert {layer["name"]: layer["bits"] % 16 for layer in chosen["layers"]} == bits_of(tmp_path / "q")
    assert result["layers_fallen_back"] == 0


@pytest.mark.parametrize("size", [0.03, 0.06, 0.08, 0.12])
def test_the_size_on_disk_is_what_was_asked_for(tmp_path, source, size):
    result = run(source, tmp_path / "q", target_size_mb=size)
    allowed = max(size, result["mixed_precision"]["smallest_bytes"] / 1e6)
    # Small tensors are compressed together, which an estimate tensor by tensor cannot know; what is above is said.
    assert result["model_size_mb"] <= 1.1 * allowed
    assert (result["model_size_mb"] > allowed) == any("MB were expected" in w for w in result["warnings"])
    assert result["mixed_precision"]["budget_bytes"] == pytest.approx(size * 1e6, abs=1)


def test_the_errors_are_those_of_the_layers(tmp_path, source):
    result = run(source, tmp_path / "q", target_size_mb=0.05)
    layers = {layer["name"]: layer for layer in result["layers"]}
    for chosen in result["mixed_precision"]["layers"]:
        width = next(w for w in chosen["widths"] if w["bits"] == chosen["bits"])
        if chosen["bits"] != 16:
            assert 10 ** (-layers[chosen["name"]]["sqnr_db"] / 10) == pytest.approx(width["error"], rel=1e-9)
    assert [w["bits"] for w in chosen["widths"]] == [2, 3, 4, 8, 16]


def test_an_error_budget_makes_the_smallest_model_within_it(tmp_path, source):
    errors, sizes = [], []
    for target in (0.3, 0.03, 0.003):
        chosen = run(source, tmp_path / "q", target_error=target)["mixed_precision"]
        assert chosen["error"] <= target
        errors.append(chosen["error"])
        sizes.append(chosen["expected_bytes"])
    assert sizes == sorted(sizes)
    # No smaller size has as little error.
    fewer = run(source, tmp_path / "q", target_size_mb=(sizes[1] - 200) / 1e6)["mixed_precision"]
    assert fewer["error"] > 0.03


def test_an_error_that_the_size_does_not_permit(tmp_path, source):
    result = run(source, tmp_path / "q", target_error=1e-6, target_size_mb=0.05)
    assert result["mixed_precision"]["expected_bytes"] <= 50_000
    assert any("needs" in w and "more than target_size_mb" in w for w in result["warnings"])


def test_too_small_a_size_says_what_is_possible(tmp_path, source):
    result = run(source, tmp_path / "q", target_size_mb=0.001)
    smallest = result["mixed_precision"]["smallest_bytes"]
    assert any(f"{smallest / 1e6:.2f} MB, more than the 0.00 MB" in w for w in result["warnings"])
    assert set(bits_of(tmp_path / "q").values()) == {2}
    with pytest.raises(ConfigurationError, match="smallest possible model"):
        run(source, tmp_path / "s", target_size_mb=0.001, strict=True)
    assert not (tmp_path / "s").exists()


def test_a_size_that_holds_everything_is_said(tmp_path, source):
    result = run(source, tmp_path / "q", target_size_mb=200)
    assert not result["layers"]
    assert any("keeps every layer" in w for w in result["warnings"])


def test_given_bits_protection_and_thresholds_are_kept(tmp_path, source):
    result = run(
        source, tmp_path / "q", target_size_mb=0.04, layer_bit_widths={"blocks.0.attn.to_q": 3, r"blocks\.1\.": 16},
        sensitive_layer_names=["blocks.2.attn.to_q"],
    )  # fmt: skip
    bits = bits_of(tmp_path / "q")
    assert bits["blocks.0.attn.to_q.weight"] == 3
    assert bits["blocks.1.attn.to_q.weight"] == 0
    assert bits["blocks.2.attn.to_q.weight"] in (0, 8)
    assert "blocks.1.attn.to_q.weight" not in {layer["name"] for layer in result["mixed_precision"]["layers"]}
    strict = run(source, tmp_path / "q", target_size_mb=0.02, min_accuracy=0.99)
    assert strict["layers_fallen_back"] == 0
    assert all(layer["cosine"] >= 0.99 for layer in strict["layers"])


def test_threads_and_a_plan_change_nothing(tmp_path, source):
    run(source, tmp_path / "one", target_size_mb=0.05, num_threads=1)
    run(source, tmp_path / "two", target_size_mb=0.05, num_threads=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    plan = BASE.plan(source, config(target_size_mb=0.05), save_to=tmp_path / "plan.json")
    assert {layer["name"]: layer["bits"] for layer in plan["layers"]} == {
        name: bits for name, bits in bits_of(tmp_path / "one").items() if bits
    }
    given_back = config(enable_mixed_precision=False, from_plan=str(tmp_path / "plan.json"))
    BASE.quantize_diffusion_model(source, tmp_path / "planned", given_back)
    assert bits_of(tmp_path / "planned") == bits_of(tmp_path / "one")


def test_the_result_is_json(tmp_path, source):
    result = run(source, tmp_path / "q", target_size_mb=0.05)
    assert json.loads(json.dumps(result))["mixed_precision"]["sensitivity"] == "none"
    assert BASE.quantize(source, tmp_path / "uniform")["mixed_precision"] is None
