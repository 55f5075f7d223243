"""Quantize a model and one matrix without PyTorch.

Usage: numpy_only.py [MODEL [OUT]]. MODEL is a .safetensors file or a model's folder; default the project's image model.
"""

import pathlib
import sys
import tempfile

import numpy as np
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel, quantize_layer

MODEL = pathlib.Path(__file__).resolve().parent / "models" / "dit_mnist"


def whole_model(model: pathlib.Path, output: pathlib.Path) -> None:
    # Sampling a model needs PyTorch; without activations weights are rounded to nearest.
    config = DiffusionQuantConfig(bit_width=4, group_size=64, calibration="none")
    quantizer = ArrowQuantV2()
    result = quantizer.quantize_diffusion_model(model, output, config)
    print(f"{result['source_size_mb']:.2f} MB -> {result['model_size_mb']:.2f} MB")
    for tensor in QuantizedModel(output):
        if tensor.quantized:
            values = tensor.dequantize()  # float32, in the tensor's shape
            print(f"{tensor.name}: {tensor.bits} bits, {values.shape}, largest {np.abs(values).max():.3f}")
            break
    check = quantizer.validate_quality(model, output, min_accuracy=0.9)
    print(f"worst layer {check['worst_layer']}: cosine {check['min_cosine']:.4f}, passed: {check['passed']}")


def one_matrix() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 128)).astype(np.float32)
    inputs = rng.standard_normal((1024, 128)) * np.logspace(-1, 1, 128)  # what the layer sees, [samples, in]
    second_moment = inputs.T @ inputs / len(inputs)
    for name, moment in (("nearest", None), ("with the inputs' second moment", second_moment)):
        layer = quantize_layer(weight, moment, bit_width=2, group_size=32)
        outputs, rounded = inputs @ weight.T, inputs @ layer.dequantize().T
        error = np.linalg.norm(outputs - rounded) / np.linalg.norm(outputs)
        print(f"2 bits, {name}: {layer.bits_per_weight:.2f} bits a weight, outputs off by {100 * error:.1f} %")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
        whole_model(model, pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else f"{folder}/quantized"))
    one_matrix()
