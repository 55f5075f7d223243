"""Quantize a masked diffusion language model, calibrated on text, and compare its predictions.

Usage: masked_language_model.py [MODEL TEXT [OUT]]. MODEL is a transformers folder, TEXT a file or folder to calibrate
on and to compare on; without them a tiny model of bytes with random weights is made.
"""

import pathlib
import sys
import tempfile

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2.torch import calibrate_model, evaluate
from tiny_models import tiny_text_model

TEXT = pathlib.Path(__file__).resolve().parent.parent / "LICENSE"


def main(model: pathlib.Path, text: pathlib.Path, output: pathlib.Path) -> None:
    config = DiffusionQuantConfig(bit_width=4, group_size=32, calibration_samples=32, min_accuracy=0.5)

    # Windows of the text, masked at ratios spread over (0, 1].
    calibration = calibrate_model(model, output.with_suffix(".parquet"), config, data=text)

    result = ArrowQuantV2().quantize_diffusion_model(model, output, config, calibration)
    print(f"{len(result['layers'])} layers at {config.bit_width} bits, {result['compression_ratio']:.2f}x smaller")

    # Other text than the model was calibrated on tells more.
    figures = evaluate(model, output, samples=16, data=text)
    print(f"bound of the negative log-likelihood: {figures['nelbo_float']:.3f} nats a token", end=", ")
    print(f"quantized {figures['nelbo_quantized']:.3f}")
    print(f"most likely token differs at {100 * figures['flip_rate']:.1f} % of masked places")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        given = [pathlib.Path(argument) for argument in sys.argv[1:]]
        text = given[1] if len(given) > 1 else TEXT
        model = given[0] if given else tiny_text_model(pathlib.Path(folder, "model"))
        main(model, text, given[2] if len(given) > 2 else pathlib.Path(folder, "quantized"))
