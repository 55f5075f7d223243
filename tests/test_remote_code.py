"""Models whose class is code in their folder."""

from __future__ import annotations

import json

import pytest
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, MetadataError
from arrow_quant_v2.cli.main import app
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from arrow_quant_v2.torch import evaluate, load_quantized  # noqa: E402
from arrow_quant_v2.torch.calibrate import load_float_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

CODE = """
import pathlib

import torch
from transformers import PretrainedConfig, PreTrainedModel

pathlib.Path(MARKER).touch()


class OwnConfig(PretrainedConfig):
    model_type = "own_masked_lm"

    def __init__(self, vocab_size=64, hidden_size=64, **others):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**others)


class OwnMaskedLM(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.mlp = torch.nn.ModuleList(torch.nn.Linear(config.hidden_size, config.hidden_size) for _ in range(2))
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.mlp:
            x = x + torch.relu(layer(x))
        return (self.head(x),)
"""


@pytest.fixture
def own(tmp_path):
    """A model with its code, and the file that shows that the code was run."""
    folder, marker = tmp_path / "own", tmp_path / "was_run"
    folder.mkdir()
    (folder / "modeling_own.py").write_text(CODE.replace("MARKER", repr(str(marker))))
    config = {
        "architectures": ["OwnMaskedLM"], "model_type": "own_masked_lm", "vocab_size": 64, "hidden_size": 64,
        "mask_token_id": 63, "max_position_embeddings": 16,
        "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForMaskedLM": "modeling_own.OwnMaskedLM"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed.weight": (64, 64), "head.weight": (64, 64), "head.bias": (64,)}
    for i in range(2):
        shapes |= {f"mlp.{i}.weight": (64, 64), f"mlp.{i}.bias": (64,)}
    weights = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder, marker


def options(**given):
    return DiffusionQuantConfig(
        bit_width=4, group_size=64, modality="text", min_accuracy=0.0, calibration_samples=4, **given
    )


def test_code_is_not_run_unless_allowed(own, tmp_path):
    folder, marker = own
    result = ArrowQuantV2().quantize_diffusion_model(folder, tmp_path / "q", options())
    assert result["calibration"] == "none"
    assert "--allow-remote-code" in result["calibration_reason"]
    for load in (load_float_model, load_quantized):
        with pytest.raises(MetadataError, match="allow_remote_code"):
            load(folder if load is load_float_model else tmp_path / "q")
    assert not marker.exists()


def test_allowed_code_is_calibrated_loaded_and_compared(own, tmp_path):
    folder, marker = own
    result = ArrowQuantV2().quantize_diffusion_model(folder, tmp_path / "q", options(allow_remote_code=True))
    assert result["calibration"] == "synthetic"
    assert marker.exists()
    tokens = torch.arange(16)[None]
    model = load_quantized(tmp_path / "q", torch.float32, allow_remote_code=True)
    given = load_quantized(tmp_path / "q", torch.float32, model=load_float_model(folder, allow_remote_code=True))
    with torch.no_grad():
        expected = load_float_model(folder, allow_remote_code=True)(tokens)[0]
        got = model(tokens)[0]
        assert torch.equal(got, given(tokens)[0])
    assert 0 < (got - expected).norm() / expected.norm() < 0.2
    figures = evaluate(folder, tmp_path / "q", 4, allow_remote_code=True)
    assert figures["kind"] == "text"
    with pytest.raises(MetadataError, match="allow_remote_code"):
        evaluate(folder, tmp_path / "q", 4)


@pytest.mark.parametrize("reference", ["stranger/repository--modeling.OwnMaskedLM", 7])
def test_code_of_another_repository_is_never_fetched(own, reference):
    folder, marker = own
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModelForMaskedLM"] = reference
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MetadataError, match="no code of this folder"):
        load_float_model(folder, allow_remote_code=True)
    assert not marker.exists()


def test_the_option_of_the_command(own, tmp_path):
    folder, marker = own
    common = ["quantize", str(folder), str(tmp_path / "q"), "--samples", "4", "--modality", "text", "--json"]
    assert CliRunner().invoke(app, [*common, "--min-accuracy", "0"]).exit_code == 0
    assert not marker.exists()
    allowed = [*common, "--min-accuracy", "0", "--overwrite", "--allow-remote-code"]
    assert CliRunner().invoke(app, allowed).exit_code == 0
    assert marker.exists()
