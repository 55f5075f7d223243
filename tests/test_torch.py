"""Loading into PyTorch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, MetadataError, QuantizedModel  # noqa: E402
from arrow_quant_v2.torch import load_quantized, load_state_dict  # noqa: E402
from arrow_quant_v2.torch.modules import PackedWeight, make_packed  # noqa: E402
from helpers import write_safetensors  # noqa: E402


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, demo_model):
    path = tmp_path_factory.mktemp("q") / "int4"
    ArrowQuantV2().quantize_diffusion_model(demo_model, path, DiffusionQuantConfig(group_size=64), calibration="none")
    return path


@torch.no_grad()
def run(model, dtype):
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(dtype)
    return model(x, timestep=torch.tensor([10, 900]), class_labels=torch.tensor([1, 2])).sample


def test_packed_and_expanded_agree(quantized):
    packed = load_quantized(quantized, dtype=torch.float32)
    expanded = load_quantized(quantized, dtype=torch.float32, expand=True)
    assert torch.equal(run(packed, torch.float32), run(expanded, torch.float32))
    weights = sum(b.numel() * b.element_size() for b in packed.buffers() if b.dtype == torch.uint8)
    assert weights > 0
    assert not [m for m in expanded.modules() if isinstance(m, PackedWeight)]


def test_default_dtype_is_the_sources(quantized):
    model = load_quantized(quantized)
    assert run(model, torch.bfloat16).dtype == torch.bfloat16


def test_state_dict_is_complete(quantized, demo_model):
    from safetensors.torch import load_file

    original = load_file(demo_model / "diffusion_pytorch_model.safetensors")
    state = load_state_dict(quantized)
    assert state.keys() == original.keys()
    assert all(state[k].shape == v.shape and state[k].dtype == v.dtype for k, v in original.items())


def test_transformers_model_runs(shared_models, tmp_path):
    ArrowQuantV2().quantize_diffusion_model(shared_models / "mdlm_code", tmp_path / "q", calibration="none")
    model = load_quantized(tmp_path / "q")
    with torch.no_grad():
        logits = model(input_ids=torch.full((1, 128), 256)).logits
    assert logits.shape == (1, 128, 258)
    assert torch.isfinite(logits).all()
    assert model.decoder.weight is model.model.embeddings.tok_embeddings.weight


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_torch_operations_agree_with_the_kernels(tmp_path, bits):
    weight = np.random.default_rng(bits).standard_normal((24, 100)).astype(np.float32)
    write_safetensors(tmp_path / "m.safetensors", {"blocks.0.attn.to_q.weight": weight})
    ArrowQuantV2("base").quantize(tmp_path / "m.safetensors", tmp_path / "q", bits, 32)
    (stored,) = QuantizedModel(tmp_path / "q")
    packed = PackedWeight(stored, torch.float32)
    assert torch.equal(packed.expand_by_kernel(), packed.expand_by_torch())


@pytest.mark.parametrize(
    "kind", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
)
def test_convolutions_run_packed(tmp_path, kind):
    rank = int(kind[-2])
    transposed = kind.startswith("ConvTranspose")
    module = getattr(torch.nn, kind)(8, 12, 3, padding=1)
    write_safetensors(tmp_path / "m.safetensors", {"blocks.0.conv.weight": module.weight.detach().numpy()})
    config = DiffusionQuantConfig(
        bit_width=8, min_accuracy=0.0, transposed_patterns=("conv",) if transposed else (), quantize_patterns=("conv",)
    )
    ArrowQuantV2("base").quantize_diffusion_model(tmp_path / "m.safetensors", tmp_path / "q", config)
    (stored,) = QuantizedModel(tmp_path / "q")
    assert stored.quant_axis == (1 if transposed else 0)
    x = torch.randn(1, 8, *[5] * rank, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = module(x)
        got = make_packed(module, PackedWeight(stored, torch.float32))(x)
    # Eight bits: a 256th of each group's range, over 8 * 3^rank products.
    assert (want - got).abs().max() < 0.02
    assert not torch.equal(want, got)


def test_a_model_without_config_names_load_state_dict(tmp_path):
    weight = np.ones((32, 32), np.float32)
    write_safetensors(tmp_path / "m.safetensors", {"blocks.0.attn.to_q.weight": weight})
    ArrowQuantV2("base").quantize(tmp_path / "m.safetensors", tmp_path / "q")
    with pytest.raises(MetadataError, match="load_state_dict"):
        load_quantized(tmp_path / "q")
    assert torch.equal(load_state_dict(tmp_path / "q")["blocks.0.attn.to_q.weight"], torch.from_numpy(weight))
