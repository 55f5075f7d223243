"""The demo of pictures and of sounds, with fewer steps and widths than it has."""

from __future__ import annotations

import pathlib
import wave

import numpy as np
import pytest
from arrow_quant_v2.errors import ModelNotFoundError, UnsupportedModelError
from rich.console import Console

torch = pytest.importorskip("torch")

from arrow_quant_v2.torch import demo, synthetic  # noqa: E402
from arrow_quant_v2.torch.demo_audio import SoundDemo, one_after_the_other  # noqa: E402
from arrow_quant_v2.torch.demo_pictures import PictureDemo, psnr_db  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def run_short(monkeypatch, tmp_path):
    """Run the demo of a model by its name at 8 bits."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "BITS", (8,))
    monkeypatch.setattr(synthetic, "TRAJECTORY_STEPS", 2)
    return lambda name: demo.run_demo(pathlib.Path(name), tmp_path, Console(quiet=True), quick=True)


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


def test_sounds_of_a_model_by_name(run_short, tmp_path):
    (figures,) = run_short("unet1d_voice")
    assert 0 < figures["log_spectral_distance_db"] < 10
    assert "| LSD dB |" in (tmp_path / "table.md").read_text()
    assert size_of(tmp_path / "spectrograms.png")[0] > 500
    for name in ("float", "int8"):
        with wave.open(str(tmp_path / f"{name}.wav")) as file:
            assert (file.getframerate(), file.getnframes()) == (8000, 2 * 4096 + 800)


def test_pictures_of_a_model_without_classes(run_short, tmp_path):
    (figures,) = run_short("examples/models/unet_digits")
    assert figures["psnr_db"] > 20
    assert size_of(tmp_path / "digits.png") == (4 * 16 * 4, 2 * 16 * 4)


def test_a_model_that_is_nowhere(run_short):
    with pytest.raises(ModelNotFoundError, match="no_such"):
        run_short("no_such")


def test_latents_are_refused():
    with pytest.raises(UnsupportedModelError, match="4 channels"):
        PictureDemo(4)


def test_wav_files_hold_the_sounds(tmp_path):
    sounds = torch.tensor([[[0.5, -1.0]], [[1.0, 0.0]]])
    assert one_after_the_other(sounds, 30).tolist() == [[0.5, -1, 0, 0, 0, 1, 0]]
    SoundDemo(8000).save({"float": sounds.repeat(1, 1, 300)}, tmp_path)
    with wave.open(str(tmp_path / "float.wav")) as file:
        frames = np.frombuffer(file.readframes(2), "<i2")
    assert frames.tolist() == [16384, -32767]


def test_psnr_of_a_known_error():
    assert psnr_db(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.2)) == pytest.approx(20)
