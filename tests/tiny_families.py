"""A tiny model with random weights of every architecture family that is known, made from its config."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch


class Family(NamedTuple):
    """``make()`` gives the model, in eval mode; the model takes ``inputs`` as keywords."""

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: dict[str, Any]

    def run(self, model: torch.nn.Module) -> torch.Tensor:
        """What the model gives for the example inputs, as its weights' type."""
        dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        with torch.no_grad():
            return model(**{key: _cast(value, dtype) for key, value in self.inputs.items()})[0]


def families() -> Iterator[Family]:
    """All of them, in the order of docs/spatial.md."""
    for name, (make, inputs) in _FAMILIES.items():
        yield Family(name, _seeded(make), inputs())


def relatives() -> Iterator[Family]:
    """Models of other classes or settings with the same blocks."""
    for name, (make, inputs) in _RELATIVES.items():
        yield Family(name, _seeded(make), inputs())


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value


def _seeded(make: Callable[[], torch.nn.Module]) -> Callable[[], torch.nn.Module]:
    @functools.cache
    def seeded() -> torch.nn.Module:
        torch.manual_seed(0)
        model = make().eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():  # nothing stays zero or one, as fresh norms and biases are
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return model

    return lambda: copy.deepcopy(seeded())


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def _times() -> torch.Tensor:
    return torch.tensor([7, 803])


def _dit() -> torch.nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10,
    )  # fmt: skip


def _pixart() -> torch.nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32, in_channels=4, out_channels=8,
        num_layers=2, sample_size=8, caption_channels=24, use_additional_conditions=False,
    )  # fmt: skip


def _sd3() -> torch.nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=3, sample_size=8,
        joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=8,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip


def _flux() -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=8, num_layers=2, num_single_layers=2,
        joint_attention_dim=24, pooled_projection_dim=20, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip


def _unet2d() -> torch.nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(24, 40), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=8,
    )  # fmt: skip


def _unet2d_condition(kind: str = "CrossAttn", **more: Any) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        down_block_types=(f"{kind}DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", f"{kind}UpBlock2D"),
        attention_head_dim=2, **more,
    )  # fmt: skip


def _unet2d_added() -> torch.nn.Module:
    """Attention with added keys and values, whose queries come from a GroupNorm."""
    return _unet2d_condition("SimpleCrossAttn", mid_block_type="UNetMidBlock2DSimpleCrossAttn")


def _stable_audio() -> torch.nn.Module:
    from diffusers import StableAudioDiTModel

    return StableAudioDiTModel(
        sample_size=16, in_channels=8, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        num_key_value_attention_heads=2, out_channels=8, cross_attention_dim=24, time_proj_dim=16,
        global_states_input_dim=20, cross_attention_input_dim=24,
    )  # fmt: skip


_SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32,
}  # fmt: skip


def _bert() -> torch.nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**_SIZES, tie_word_embeddings=False))


def _modernbert() -> torch.nn.Module:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    return ModernBertForMaskedLM(ModernBertConfig(**_SIZES, cls_token_id=1, sep_token_id=2))


def _llama(key_value_heads: int = 4) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SIZES, num_key_value_heads=key_value_heads, tie_word_embeddings=False))


def _relative(name: str, **more: Any) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**_SIZES, tie_word_embeddings=False, **more)
        head = "ForMaskedLM" if name == "Roberta" else "ForCausalLM"
        return getattr(transformers, name + head)(config)

    return make


def _image_inputs() -> dict[str, Any]:
    return {"hidden_states": _normal(2, 4, 8, 8), "timestep": _times()}


def _latent_inputs() -> dict[str, Any]:
    return {"sample": _normal(2, 4, 8, 8), "timestep": _times(), "encoder_hidden_states": _normal(2, 5, 24)}


def _text_inputs() -> dict[str, Any]:
    return {"input_ids": torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(2))}


def _flux_inputs() -> dict[str, Any]:
    return {
        "hidden_states": _normal(2, 16, 8), "encoder_hidden_states": _normal(2, 5, 24),
        "pooled_projections": _normal(2, 20), "timestep": torch.tensor([0.01, 0.8]),
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip


def _audio_inputs() -> dict[str, Any]:
    return {
        "hidden_states": _normal(2, 8, 16), "timestep": torch.tensor([0.1, 0.7]),
        "encoder_hidden_states": _normal(2, 5, 24), "global_hidden_states": _normal(2, 1, 20),
        "rotary_embedding": (torch.ones(17, 4), torch.zeros(17, 4)),
    }  # fmt: skip


_FAMILIES: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], dict[str, Any]]]] = {
    "dit": (_dit, lambda: {**_image_inputs(), "class_labels": torch.tensor([1, 9])}),
    "pixart": (
        _pixart,
        lambda: {
            **_image_inputs(),
            "encoder_hidden_states": _normal(2, 5, 24),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "sd3": (
        _sd3,
        lambda: {
            **_image_inputs(),
            "encoder_hidden_states": _normal(2, 5, 24),
            "pooled_projections": _normal(2, 20),
        },
    ),
    "flux": (_flux, _flux_inputs),
    "unet2d": (_unet2d, lambda: {"sample": _normal(2, 3, 8, 8), "timestep": _times()}),
    "unet2d_condition": (_unet2d_condition, _latent_inputs),
    "stable_audio": (_stable_audio, _audio_inputs),
    "bert": (_bert, _text_inputs),
    "modernbert": (_modernbert, _text_inputs),
    "llama": (_llama, _text_inputs),
    "llama_grouped": (lambda: _llama(2), _text_inputs),
}

_RELATIVES: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], dict[str, Any]]]] = {
    "unet2d_linear": (lambda: _unet2d_condition(use_linear_projection=True), _latent_inputs),
    "unet2d_only_cross": (lambda: _unet2d_condition(only_cross_attention=True), _latent_inputs),
    "unet2d_added": (_unet2d_added, _latent_inputs),
    "roberta": (_relative("Roberta"), _text_inputs),
    "mistral": (_relative("Mistral", num_key_value_heads=2), _text_inputs),
    "qwen2": (_relative("Qwen2", num_key_value_heads=4), _text_inputs),
    "qwen3": (_relative("Qwen3", num_key_value_heads=4, head_dim=16), _text_inputs),
}
