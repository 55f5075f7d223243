"""The demo's pictures: one sheet, and their peak signal-to-noise ratio."""

from __future__ import annotations

import math
import pathlib

import torch
from PIL import Image

from arrow_quant_v2.errors import UnsupportedModelError

FILE = "digits.png"


class PictureDemo:
    """Of a model that makes pictures of one or three channels. Raises UnsupportedModelError for other channels."""

    figure, column, made = "psnr_db", "PSNR dB", "pictures"
    count = (4, 16)

    def __init__(self, channels: int) -> None:
        if channels not in (1, 3):
            raise UnsupportedModelError(
                f"the model makes samples of {channels} channels, which are no pictures. Give one that makes pictures "
                "of 1 or 3 channels, or sounds."
            )

    def distance(self, want: torch.Tensor, got: torch.Tensor) -> float:
        return psnr_db(want, got)

    def save(self, samples: dict[str, torch.Tensor], output: pathlib.Path) -> str:
        save_pictures(list(samples.values()), output / FILE)
        return f"{output / FILE}: pictures from the same noise, from top to bottom {', '.join(samples)}"


def psnr_db(want: torch.Tensor, got: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    return -10 * math.log10(max(float(((want - got) ** 2).mean()) / 4, 1e-20))


def save_pictures(rows: list[torch.Tensor], path: pathlib.Path) -> None:
    """Rows of pictures [count, channels, height, width] in [-1, 1], enlarged to 56 pixels or more."""
    sheet = torch.cat([torch.cat(list(pictures), 2) for pictures in rows], 1)
    pixels = ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0)
    image = Image.fromarray(pixels.squeeze(2).numpy() if pixels.shape[2] == 1 else pixels.numpy())
    zoom = max(1, math.ceil(56 / rows[0].shape[2]))
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)
