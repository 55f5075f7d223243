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


class Chain(nn.Module):
    """Layers one behind the other, so that errors add up."""

    def __init__(self, depth=4, width=64):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, sample, timestep):
        for layer in self.layers:
            sample = torch.relu_(layer(sample))  # in place: writes into what the next layer reads
        return sample


def staged(stages, **given):
    from arrow_quant_v2.torch.statistics_run import StatisticsRun

    torch.manual_seed(0)
    model = Chain().eval()
    names = {("", f"layers.{i}.weight"): 2 for i in range(4)}
    run = StatisticsRun({"": model}, names, 1000.0, config(calibration_stages=stages, **given))

    def drive(collectors, report):
        for i in range(64):
            x = torch.randn(8, 64, generator=torch.Generator().manual_seed(i))
            model(sample=x, timestep=torch.tensor([10.0 * i]))
        return 64

    run.run(drive, None)
    return model, run, run.collected({"description": "samples"}, [])


def rounded(model, statistics, name, given):
    weight = model.get_submodule(name.removesuffix(".weight")).weight.detach().numpy()
    return core.round_layer(weight, "", name, 2, statistics, "", json.dumps(given.to_dict()))


def test_stages_see_the_errors_of_earlier_layers_and_leave_the_float_model():
    model, run, collected = staged(4)
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), Chain().parameters(), strict=True))
    assert run.passes == 4
    assert collected.facts["stages"] == 4
    inputs = first_inputs(collected.statistics)
    assert inputs["layers.0.weight"].drift() is None
    one = first_inputs(staged(1)[2].statistics)
    for i in range(1, 4):
        later = inputs[f"layers.{i}.weight"]
        moment, drift = later.second_moment(), later.drift()
        assert not np.allclose(moment, one[f"layers.{i}.weight"].second_moment(), rtol=1e-3)
        assert 0 < np.linalg.norm(drift) < np.linalg.norm(moment)


def test_stages_lower_the_error_of_the_whole():
    """Against the float model's outputs, samples that no statistics have seen."""
    given = config()
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(1000))
    errors = {}
    for stages in (1, 4):
        model, _, collected = staged(stages)
        with torch.no_grad():
            expected = model(x.clone(), None)
            for i in range(4):
                name = f"layers.{i}.weight"
                values = rounded(model, collected.statistics, name, given)
                model.layers[i].weight.copy_(torch.from_numpy(values))
            errors[stages] = float((model(x.clone(), None) - expected).square().mean())
    assert errors[4] < 0.95 * errors[1]


def test_later_stages_see_what_a_run_leaves(demo_model, tmp_path):
    """The weights between the stages are those of the output."""
    given = config(calibration_stages=2, calibration_samples=32)
    path = tmp_path / "s.parquet"
    calibrate_model(demo_model, path, given, samples=calls())
    statistics = load_statistics(path, demo_model)
    assert json.loads(statistics.facts)["stages"] == 2
    result = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", given, statistics)
    name = "transformer_blocks.0.attn1.to_q.weight"
    stored = load_state_dict(tmp_path / "q")[name]
    weight = load_float_model(demo_model).state_dict()[name].numpy()
    values = core.round_layer(weight, "", name, 2, statistics, "image", json.dumps(given.to_dict()))
    assert torch.equal(stored, torch.from_numpy(values).to(stored.dtype))
    targets = {layer["name"]: layer["target"] for layer in result["layers"]}
    assert targets[name] is None
    late = [target for target in targets.values() if target is not None]
    assert len(late) >= len(targets) // 2
    assert any(target["corrected"] for target in late)
    assert all(target["inherited_error"] >= 0 and target["error"] > 0 for target in late)


def test_a_twin_that_takes_another_way_has_no_drift_there():
    from arrow_quant_v2.torch.collect import ActivationCollector

    class Routed(nn.Module):
        def __init__(self, offset):
            super().__init__()
            self.offset = offset
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, sample, timestep):
            return self.a(sample) if self.offset < 0 else self.b(sample[:2])

    model, twin = Routed(-1.0), Routed(1.0)
    collector = ActivationCollector(model, [0.0, 1.0], twin=twin)
    with collector, torch.inference_mode():
        model(torch.randn(4, 8), torch.zeros(1))
    assert collector.reached == {"b.weight"}
    assert not collector.statistics.input(0).drift().any()


def test_stages_fit_the_limit(demo_model):
    model = load_float_model(demo_model)
    layers = {("", f"{n}.weight") for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for limit, stages in ((1e6, 3), (12, 3), (1e6, 1000)):
        plan = plan_passes(
            {"": model}, layers, 10, config(max_memory_limit_mb=limit, calibration_stages=min(stages, 64))
        )
        assert len(plan.layers) >= min(stages, 64, len(layers))
        assert set().union(*plan.layers) == layers
        assert sum(len(part) for part in plan.layers) == len(layers)
    assert plan.keep_groups


def test_weights_on_disk_are_those_of_the_source_rounded_once(tmp_path, demo_model, passes):
    """Between passes the model in memory is quantized; the result is made from the source."""
    given = config(bit_width=8, max_memory_limit_mb=LIMIT_MB, strategy_spatial="never")
    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", given, passes)
    name = "transformer_blocks.0.attn1.to_q.weight"
    stored = load_state_dict(tmp_path / "q")[name].float()
    source = load_float_model(demo_model).state_dict()[name]
    assert (stored - source).norm() / source.norm() < 0.01
