"""Load quantized models into PyTorch."""

from arrow_quant_v2.torch.load import load_quantized, load_state_dict

__all__ = ["load_quantized", "load_state_dict"]
