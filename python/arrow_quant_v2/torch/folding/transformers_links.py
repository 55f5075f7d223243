"""Links of transformers' modules, read from the forward code of transformers 5.24.

A LayerNorm of BERT comes after the residual sum and is the next residual too, so only values are folded there. Values
of grouped-query heads feed several heads of the output projection; widths then differ, which leaves them unfolded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from arrow_quant_v2.torch.folding.links import Link, Part, simple


def _bert_attention(block: Any) -> Iterator[Link]:
    yield simple("self.value", "output.dense")


def _bert_head(block: Any) -> Iterator[Link]:
    yield simple("transform.LayerNorm", "decoder")


def _modernbert_layer(block: Any) -> Iterator[Link]:
    yield simple("attn_norm", "attn.Wqkv")  # the first layer's is nn.Identity, which cannot be scaled
    yield simple("mlp_norm", "mlp.Wi")


def _modernbert_attention(block: Any) -> Iterator[Link]:
    yield Link((Part("Wqkv", 2, 3),), ("Wo",))


def _modernbert_mlp(block: Any) -> Iterator[Link]:
    """Wo(activation(first) * second) of the chunks of Wi."""
    yield Link((Part("Wi", 1, 2),), ("Wo",))


def _modernbert_head(model: Any) -> Iterator[Link]:
    yield simple("head.norm", "decoder")


def _llama_layer(block: Any) -> Iterator[Link]:
    yield simple("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    yield simple("post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
    yield simple("mlp.up_proj", "mlp.down_proj")
    yield simple("self_attn.v_proj", "self_attn.o_proj")


TRANSFORMERS_LINKS: Mapping[str, Callable[[Any], Iterator[Link]]] = {
    "BertAttention": _bert_attention,
    "BertLMPredictionHead": _bert_head,
    "RobertaAttention": _bert_attention,
    "ModernBertEncoderLayer": _modernbert_layer,
    "ModernBertAttention": _modernbert_attention,
    "ModernBertMLP": _modernbert_mlp,
    "ModernBertForMaskedLM": _modernbert_head,
    "LlamaDecoderLayer": _llama_layer,
    "MistralDecoderLayer": _llama_layer,
    "Qwen2DecoderLayer": _llama_layer,
    "Qwen3DecoderLayer": _llama_layer,
}
