"""Links of diffusers' modules, read from the forward code of diffusers 0.42.

What is absent is absent for a reason: a residual or a second branch reads the output too (post-norm layers, proj_in,
convolutions of ResnetBlock2D), a nonlinearity lies between (GroupNorm -> SiLU -> conv, GELU), or blocks share the
producer (PixArt's adaln_single, embeddings of captions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from arrow_quant_v2.torch.folding.links import Link, Part, adaptive, simple

# Attention of these processors is softmax(q k^T) v by head, with nothing between to_v and to_out but that average.
_PLAIN = frozenset({"AttnProcessor", "AttnProcessor2_0", "StableAudioAttnProcessor2_0"})
# These attend to rows of a second input as well, through add_k_proj and add_v_proj.
_JOINT = frozenset({"JointAttnProcessor2_0", "FluxAttnProcessor"})
_ADDED = frozenset({"AttnAddedKVProcessor", "AttnAddedKVProcessor2_0"})


def _processor(attention: Any) -> str:
    """The processor's class where its projections are separate ones."""
    fused = getattr(attention, "fused_projections", False)
    return "" if fused else type(getattr(attention, "processor", None)).__name__


def _projections(attention: Any) -> tuple[str, ...]:
    """Layers that read the first input: without keys and values where these come from the second."""
    alone = _processor(attention) in _PLAIN and attention.is_cross_attention
    names = ("to_q",) if alone else ("to_q", "to_k", "to_v")
    return tuple(name for name in names if getattr(attention, name, None) is not None)


def _readers(block: Any, name: str) -> tuple[str, ...]:
    """Layers that read the input of the block's attention ``name`` as it is; none where anything else reads it."""
    attention = getattr(block, name, None)
    if attention is None or _processor(attention) not in _PLAIN | _JOINT:
        return ()
    changes = ("group_norm", "spatial_norm", "residual_connection")
    if any(getattr(attention, key, None) for key in changes):
        return ()
    return tuple(f"{name}.{projection}" for projection in _projections(attention))


def _added_readers(block: Any) -> tuple[str, ...]:
    if _processor(block.attn) not in _JOINT:
        return ()
    return ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


def _values(attention: Any) -> Iterator[Link]:
    if _processor(attention) not in _PLAIN | _JOINT | _ADDED:
        return
    names = ["to_v"] if _processor(attention) in _PLAIN else ["to_v", "add_v_proj"]
    parts = tuple(Part(name) for name in names if getattr(attention, name, None) is not None)
    outputs = ["to_out.0"] if getattr(attention, "to_out", None) is not None else []
    outputs += ["to_add_out"] if getattr(attention, "to_add_out", None) is not None else []
    yield Link(parts, tuple(outputs))


def _attention(attention: Any) -> Iterator[Link]:
    yield from _values(attention)
    if attention.group_norm is not None and _processor(attention) in _PLAIN | _ADDED:
        yield simple("group_norm", *_projections(attention))


def _feed_forward(module: Any) -> Iterator[Link]:
    """GEGLU and SwiGLU give hidden * activation(gate) of the chunks (hidden, gate)."""
    if type(module.net[0]).__name__ in {"GEGLU", "SwiGLU"}:
        yield Link((Part("net.0.proj", 0, 2),), ("net.2",))


def _basic_block(block: Any) -> Iterator[Link]:
    if block.pos_embed is not None:  # positions are added to what the norms give
        return
    if block.norm_type == "ada_norm_zero":
        yield adaptive("norm1.linear", 6, 0, 1, *_readers(block, "attn1"))
        yield adaptive("norm1.linear", 6, 3, 4, "ff.net.0.proj")
    elif block.norm_type == "layer_norm":
        yield simple("norm1", *_readers(block, "attn1"))
        yield simple("norm3", "ff.net.0.proj")
    if block.norm_type in {"ada_norm_zero", "layer_norm"} and block.norm2 is not None:
        yield simple("norm2", *_readers(block, "attn2"))


def _stable_audio_block(block: Any) -> Iterator[Link]:
    yield simple("norm1", *_readers(block, "attn1"))
    yield simple("norm2", *_readers(block, "attn2"))
    yield simple("norm3", "ff.net.0.proj")


def _joint_block(block: Any) -> Iterator[Link]:
    """SD3's and Flux's blocks of two streams."""
    chunks = 9 if type(block.norm1).__name__ == "SD35AdaLayerNormZeroX" else 6
    yield adaptive("norm1.linear", chunks, 0, 1, *_readers(block, "attn"))
    yield adaptive("norm1.linear", chunks, 3, 4, "ff.net.0.proj")
    if chunks == 9:
        yield adaptive("norm1.linear", chunks, 6, 7, *_readers(block, "attn2"))
    if type(block.norm1_context).__name__ == "AdaLayerNormContinuous":
        yield adaptive("norm1_context.linear", 2, 1, 0, *_added_readers(block))
        return
    yield adaptive("norm1_context.linear", 6, 0, 1, *_added_readers(block))
    yield adaptive("norm1_context.linear", 6, 3, 4, "ff_context.net.0.proj")


def _sd3_single_block(block: Any) -> Iterator[Link]:
    yield adaptive("norm1.linear", 6, 0, 1, *_readers(block, "attn"))
    yield adaptive("norm1.linear", 6, 3, 4, "ff.net.0.proj")


def _flux_single_block(block: Any) -> Iterator[Link]:
    readers = _readers(block, "attn")
    if readers:
        yield adaptive("norm.linear", 3, 0, 1, *readers, "proj_mlp")


def _dit(model: Any) -> Iterator[Link]:
    yield adaptive("proj_out_1", 2, 0, 1, "proj_out_2")


def _continuous_out(model: Any) -> Iterator[Link]:
    if type(model.norm_out).__name__ == "AdaLayerNormContinuous":
        yield adaptive("norm_out.linear", 2, 1, 0, "proj_out")


def _transformer_2d(model: Any) -> Iterator[Link]:
    if getattr(model, "is_input_continuous", False):
        yield simple("norm", "proj_in")


DIFFUSERS_LINKS: Mapping[str, Callable[[Any], Iterator[Link]]] = {
    "Attention": _attention,
    "FluxAttention": _values,
    "FeedForward": _feed_forward,
    "BasicTransformerBlock": _basic_block,
    "StableAudioDiTBlock": _stable_audio_block,
    "JointTransformerBlock": _joint_block,
    "SD3SingleTransformerBlock": _sd3_single_block,
    "FluxTransformerBlock": _joint_block,
    "FluxSingleTransformerBlock": _flux_single_block,
    "DiTTransformer2DModel": _dit,
    "SD3Transformer2DModel": _continuous_out,
    "FluxTransformer2DModel": _continuous_out,
    "Transformer2DModel": _transformer_2d,
}
