"""How much of a layer's error arrives in the model's output."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from arrow_quant_v2 import ArrowQuantV2, CancelledError, DiffusionQuantConfig  # noqa: E402
from arrow_quant_v2.torch.layer_sensitivity import measure_layer_sensitivity  # noqa: E402
from arrow_quant_v2.torch.synthetic import SelfSampling  # noqa: E402
from torch import nn  # noqa: E402


class Sum(nn.Module):
    """Two layers whose outputs are added, with weights that make one ten times as large."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.large, self.small = nn.Linear(32, 64), nn.Conv2d(1, 64, (1, 32))
        self.unused = nn.Linear(4, 4)
        self.large.weight.data = 10 * torch.randn(64, 32, generator=generator)
        self.small.weight.data = torch.randn(64, 1, 1, 32, generator=generator)

    def forward(self, x):
        return self.large(x) + self.small(x[:, None]).squeeze(-1).movedim(1, 2)


def sample(model, ids, seed, change):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(10):
        yield ids
        x = model(x=torch.randn(len(ids), 16, 32, generator=generator))
    return x


def test_sensitivity_times_error_is_the_change_of_the_output():
    model = Sum().eval()
    probes = {
        f"{name}.weight": lambda module: module.weight + 0.01 * module.weight.roll(1, 0)
        for name in ("large", "small", "unused")
    }
    before = model.large.weight.clone()
    found = measure_layer_sensitivity(model, SelfSampling(1000.0, 10, None, sample), probes)
    # The output's energy is that of both, 100 to 1, and the error of a layer is a part of its own.
    assert found["large.weight"] == pytest.approx(1, rel=0.1)
    assert found["small.weight"] == pytest.approx(0.01, rel=0.2)
    assert "unused.weight" not in found
    assert torch.equal(model.large.weight, before)


def test_a_run_measures_it_and_keeps_it_for_the_run_that_continues(tmp_path, demo_model, monkeypatch):
    config = DiffusionQuantConfig(
        calibration_samples=2, num_time_groups=2, group_size=64, min_accuracy=0.0, enable_mixed_precision=True,
        target_size_mb=None, keep_patterns=[r"blocks\.[1-5]"],
    )  # fmt: skip
    unfinished = tmp_path / ".q.partial"

    def measured():  # and not yet quantized
        return any(unfinished.rglob("widths.figures"))

    with pytest.raises(CancelledError):
        ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", config, should_stop=measured)
    assert (tmp_path / ".q.partial" / "layer_sensitivity.json").exists()

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("arrow_quant_v2.torch.layer_sensitivity.sensitivity_of_layers", refuse)
    result = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", config)
    chosen = result["mixed_precision"]
    assert chosen["sensitivity"] == "measured"
    assert len({layer["sensitivity"] for layer in chosen["layers"]}) == 7
    assert result["model_size_mb"] * 1e6 <= 1.005 * chosen["budget_bytes"]
    assert chosen["error"] < next(u["error"] for u in chosen["uniform"] if u["bits"] == 4)
    assert not (tmp_path / ".q.partial").exists()
