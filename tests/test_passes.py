"""Calibration in several passes, where the second moments do not fit into memory at once."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2._native import core

torch = pytest.importorskip("torch")
from arrow_quant_v2.calibration import load_statistics  # noqa: E402
from arrow_quant_v2.torch import load_state_dict  # noqa: E402
from arrow_quant_v2.torch.calibrate import calibrate_model, load_float_model, sample_model  # noqa: E402
from arrow_quant_v2.torch.passes import plan_passes  # noqa: E402
from torch import nn  # noqa: E402


def config(**given):
    return DiffusionQuantConfig(
        **{"bit_width": 2, "group_size": 64, "min_accuracy": 0.0, "calibration_samples": 8, **given}
    )


def calls(count=8):
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        yield {
            "hidden_states": torch.randn(4, 1, 28, 28, generator=generator),
            "timestep": (torch.arange(4) * 240 + i * 30) % 1000,
            "class_labels": torch.randint(0, 10, (4,), generator=generator),
        }


# A third of the model's second moments, one per layer and input of its own.
LIMIT_MB = 12


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory, demo_model):
    path = tmp_path_factory.mktemp("one") / "s.parquet"
    calibrate_model(demo_model, path, config(calibration_samples=32), samples=calls())
    return load_statistics(path, demo_model)


@pytest.fixture(scope="module")
def passes(tmp_path_factory, demo_model):
    path = tmp_path_factory.mktemp("passes") / "s.parquet"
    given = config(calibration_samples=32, max_memory_limit_mb=LIMIT_MB)
    calibrate_model(demo_model, path, given, samples=calls())
    return load_statistics(path, demo_model)


def first_inputs(statistics):
    return {name: statistics.input(numbers[0]) for (_, name), numbers in statistics.layers()}


def test_each_layer_is_measured_in_one_pass(demo_model, one_pass, passes):
    facts = json.loads(passes.facts)
    assert facts["passes"] > 2
    assert f"in {facts['passes']} passes" in facts["description"]
    assert facts["unreached"] == json.loads(one_pass.facts)["unreached"]
    assert sorted(name for _, name in dict(passes.layers())) == sorted(name for _, name in dict(one_pass.layers()))


def test_the_first_pass_sees_the_float_model_and_later_ones_quantized_layers(one_pass, passes):
    whole, parts = first_inputs(one_pass), first_inputs(passes)
    rows = {name: sum(s.count(g) for g in range(10)) for name, s in whole.items()}
    assert rows == {name: sum(s.count(g) for g in range(10)) for name, s in parts.items()}
    first, last = "transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.5.ff.net.2.weight"
    np.testing.assert_allclose(parts[first].second_moment(), whole[first].second_moment(), rtol=1e-5, atol=1e-6)
    difference = parts[last].second_moment() - whole[last].second_moment()
    relative = np.linalg.norm(difference) / np.linalg.norm(whole[last].second_moment())
    assert 1e-4 < relative < 0.5


def test_a_model_is_quantized_from_passes(tmp_path, demo_model, passes):
    given = config(max_memory_limit_mb=LIMIT_MB)
    result = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", given, passes)
    assert {layer["method"] for layer in result["layers"]} == {"ldlq"}
    again = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "again", given, passes)
    assert again["model_size_mb"] == result["model_size_mb"]


def test_own_sampling_goes_in_passes_and_cleans_up(monkeypatch, tmp_path, demo_model):
    monkeypatch.setattr("arrow_quant_v2.torch.synthetic.TRAJECTORY_STEPS", 3)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = []
    collected = sample_model(demo_model, config(max_memory_limit_mb=LIMIT_MB), lambda m, f: seen.append((m, f)))
    assert re.fullmatch(r"calibrating: sample 8 of 8, pass (\d) of \1", seen[-1][0])
    assert [f for _, f in seen] == sorted(f for _, f in seen)
    assert len(os.listdir(tmp_path)) == 1
    collected.save(tmp_path / "kept.parquet")
    assert core.StatisticsFile(str(tmp_path / "kept.parquet")).layers() == collected.statistics.layers()
    del collected
    assert os.listdir(tmp_path) == ["kept.parquet"]


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(4, 4, 3)

    def forward(self, sample, timestep):
        return self.out(self.up(self.grouped(sample)))


def test_all_kinds_of_layers_are_quantized_between_passes():
    from arrow_quant_v2.torch.statistics_run import StatisticsRun

    torch.manual_seed(0)
    model = Convolutions().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {("", f"{name}.weight"): 4 for name in ("grouped", "up", "out")}
    run = StatisticsRun({"": model}, names, 1000.0, config(max_memory_limit_mb=1e-6))
    assert run.passes == 3

    def drive(collectors, report):
        for i in range(8):
            x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(i))
            model(sample=x, timestep=torch.tensor([10.0 * i]))
        return 8

    run.run(drive, None)
    for name in ("grouped.weight", "up.weight"):
        error = (model.state_dict()[name] - before[name]).norm() / before[name].norm()
        assert 0 < error < 0.2, name
    assert torch.equal(model.out.weight, before["out.weight"])  # nothing comes after the last pass


def test_the_plan_depends_on_the_limit_alone(demo_model):
    model = load_float_model(demo_model)
    layers = {("", f"{n}.weight") for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    plans = [plan_passes({"": model}, layers, 10, config(max_memory_limit_mb=mb)) for mb in (1e6, 300, 12, 12)]
    assert [len(plan.layers) for plan in plans[:2]] == [1, 1]
    assert [plan.keep_groups for plan in plans[:2]] == [True, False]
    assert len(plans[2].layers) > 2
    assert plans[2] == plans[3]
    for plan in plans:
        assert set().union(*plan.layers) == layers
        assert sum(len(part) for part in plan.layers) == len(layers)


def test_weights_on_disk_are_those_of_the_source_rounded_once(tmp_path, demo_model, passes):
    """Between passes the model in memory is quantized; the result is made from the source."""
    given = config(bit_width=8, max_memory_limit_mb=LIMIT_MB)
    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", given, passes)
    name = "transformer_blocks.0.attn1.to_q.weight"
    stored = load_state_dict(tmp_path / "q")[name].float()
    source = load_float_model(demo_model).state_dict()[name]
    assert (stored - source).norm() / source.norm() < 0.01
