"""Load quantized models into PyTorch, and collect activations of float ones."""

from arrow_quant_v2.torch.calibrate import calibrate_model
from arrow_quant_v2.torch.collect import ActivationCollector, collect_activations
from arrow_quant_v2.torch.load import load_quantized, load_state_dict
from arrow_quant_v2.torch.pipeline import calibrate_pipeline
from arrow_quant_v2.torch.time_state import timestep

__all__ = [
    "ActivationCollector",
    "calibrate_model",
    "calibrate_pipeline",
    "collect_activations",
    "load_quantized",
    "load_state_dict",
    "timestep",
]
