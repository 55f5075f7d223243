"""Load quantized models into PyTorch, compare them with float ones, and collect activations of those."""

from arrow_quant_v2.torch.calibrate import calibrate_model
from arrow_quant_v2.torch.collect import ActivationCollector, collect_activations
from arrow_quant_v2.torch.evaluation.run import evaluate
from arrow_quant_v2.torch.load import load_quantized, load_state_dict
from arrow_quant_v2.torch.pipeline import calibrate_pipeline
from arrow_quant_v2.torch.time_state import timestep

__all__ = [
    "ActivationCollector",
    "calibrate_model",
    "calibrate_pipeline",
    "collect_activations",
    "evaluate",
    "load_quantized",
    "load_state_dict",
    "timestep",
]
