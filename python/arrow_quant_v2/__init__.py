"""ArrowQuant V2: post-training quantization of diffusion models to Parquet."""

from arrow_quant_v2._native import core
from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.arrow import dequantize_arrow, quantize_arrow
from arrow_quant_v2.async_api import AsyncArrowQuantV2
from arrow_quant_v2.batch import BatchResult, quantize_batch
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.convert import convert
from arrow_quant_v2.errors import (
    ArrowQuantError,
    CancelledError,
    ConfigurationError,
    CorruptFileError,
    MetadataError,
    ModelNotFoundError,
    QuantizationError,
    ResourceError,
    ShapeMismatchError,
    UnsupportedModelError,
    ValidationError,
)
from arrow_quant_v2.export import export_safetensors, export_v2_extended
from arrow_quant_v2.layer import QuantizedLayer, quantize_layer
from arrow_quant_v2.model_file import QuantizedModel, StoredTensor
from arrow_quant_v2.spatial import SpatialLayer, SpatialQuantizer
from arrow_quant_v2.time_aware import ActivationRanges, TimeAwareQuantizer, TimeCorrection

__version__: str = core.__version__

__all__ = [
    "ActivationRanges",
    "ArrowQuantError",
    "ArrowQuantV2",
    "AsyncArrowQuantV2",
    "BatchResult",
    "CancelledError",
    "ConfigurationError",
    "CorruptFileError",
    "DiffusionQuantConfig",
    "MetadataError",
    "ModelNotFoundError",
    "QuantizationError",
    "QuantizedLayer",
    "QuantizedModel",
    "ResourceError",
    "ShapeMismatchError",
    "SpatialLayer",
    "SpatialQuantizer",
    "StoredTensor",
    "TimeAwareQuantizer",
    "TimeCorrection",
    "UnsupportedModelError",
    "ValidationError",
    "__version__",
    "convert",
    "dequantize_arrow",
    "export_safetensors",
    "export_v2_extended",
    "quantize_arrow",
    "quantize_batch",
    "quantize_layer",
]
