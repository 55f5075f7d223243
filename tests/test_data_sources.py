"""Calibration with data, samples and prompts: what the models are given, and runs from data to a quantized model."""

from __future__ import annotations

import json
import signal
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from arrow_quant_v2 import (  # noqa: E402
    ArrowQuantV2,
    ConfigurationError,
    CorruptFileError,
    DiffusionQuantConfig,
    UnsupportedModelError,
)
from arrow_quant_v2._native import core  # noqa: E402
from arrow_quant_v2.calibration_data import BadRows  # noqa: E402
from arrow_quant_v2.cli.main import main  # noqa: E402
from arrow_quant_v2.torch import calibrate_model, calibrate_pipeline  # noqa: E402
from arrow_quant_v2.torch.data_sources import DataSource, data_calls  # noqa: E402
from arrow_quant_v2.torch.noised import SampleFormat, audio_tensor, image_tensor, schedule_times  # noqa: E402
from arrow_quant_v2.torch.pipeline import load_pipeline, time_span  # noqa: E402

MASK = 256
CONFIG = DiffusionQuantConfig(group_size=32, min_accuracy=0.0, calibration_samples=8, num_time_groups=2)


def save_text_model(path, vocab_size=258, mask_token_id=MASK, length=16):
    settings = transformers.BertConfig(
        vocab_size=vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=length,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertForMaskedLM(settings).save_pretrained(path)
    facts = {"modality": "text", "mask_token_id": mask_token_id, "sequence_length": length}
    (path / "metadata.json").write_text(json.dumps(facts))
    return path


def tiny_dit(classes=5):
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=3, out_channels=3, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=classes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return save_text_model(tmp_path_factory.mktemp("text") / "m")


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "m"
    tiny_dit().save_pretrained(path)
    diffusers.DDIMScheduler(num_train_timesteps=100).save_pretrained(path / "scheduler")
    (path / "metadata.json").write_text('{"modality": "image"}')
    return path


def calls_of(path, data, count, seed=0, **options):
    from arrow_quant_v2.torch.calibrate import load_float_model

    found = data_calls(load_float_model(path), path, DataSource(data, **options), count, seed)
    calls = list(found.calls)
    return {key: torch.cat([call[key] for call in calls]) for key in calls[0]}, found


def facts_of(path):
    return json.loads(core.StatisticsFile(str(path)).facts)


# ---- masked text


def test_mask_ratios_are_stratified(text_model):
    rows = [{"text": f"line {i} of a text that is long enough"} for i in range(40)]
    tokens = calls_of(text_model, rows, 40)[0]["input_ids"]
    assert tokens.shape == (40, 16)
    ratios = (tokens == MASK).double().mean(1)
    # One in each of 40 equal parts, rounded to whole tokens, of which at least one.
    wanted = ((torch.arange(40).double() + 0.5) / 40).clamp(min=1 / 16)
    assert (ratios.sort().values - wanted).abs().max() <= 0.5 / 16 + 0.5 / 40 + 1e-9
    assert ratios.min() > 0
    assert ratios.max() == 1
    assert not torch.equal(ratios, ratios.sort().values)
    held_out = ratios[7::8]
    assert held_out.max() - held_out.min() > 0.3


def test_bytes_are_tokens_and_unmasked_leaves_them(text_model):
    rows = [{"text": "Grüße, Welt. 0123456789"}]
    tokens = calls_of(text_model, rows, 3, mask=False)[0]["input_ids"]
    whole = bytes(rows[0]["text"], "utf-8")
    assert all(bytes(row.tolist()) in whole for row in tokens)
    masked = calls_of(text_model, rows, 3)[0]["input_ids"]
    assert ((masked == tokens) | (masked == MASK)).all()


def test_calls_depend_on_the_seed_alone(text_model):
    rows = [{"text": "x" * i} for i in range(100)]
    first, again, other = (calls_of(text_model, rows, 20, seed=s)[0]["input_ids"] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_short_rows_are_joined_and_repeated(text_model):
    tokens = calls_of(text_model, [{"text": "abc"}, {"text": "defg"}], 3, mask=False)[0]["input_ids"]
    assert bytes(tokens.flatten().tolist()) == (b"abcdefg" * 7)[:48]
    with pytest.raises(ConfigurationError, match="1 of 3 windows"):
        calls_of(text_model, iter([{"text": "0123456789abcdef"}]), 3)


def test_input_ids_and_their_limits(text_model):
    rows = [{"ids": [1, 2, 3, 4] * 4}, {"ids": [999]}, {"ids": []}, {"ids": "text"}]
    tokens, found = calls_of(text_model, rows, 2, mask=False, columns={"input_ids": "ids"})
    assert tokens["input_ids"].tolist() == [[1, 2, 3, 4] * 4] * 2
    assert len(found.bad) == 3
    assert found.bad.first[0] == "row 2: input_ids has 999..999; the model has tokens 0..257"


def test_an_empty_data_set_is_an_error(text_model, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "empty.py").write_text("")
    for data in (tmp_path / "empty.jsonl", tmp_path / "empty.py", [], [{"text": ""}, {"other": 1}]):
        with pytest.raises(ConfigurationError, match="no usable row"):
            calls_of(text_model, data, 4)


def test_source_files_give_windows(text_model, tmp_path):
    (tmp_path / "a.py").write_text("import this\n" * 50)
    (tmp_path / "b.py").write_text("#")
    tokens = calls_of(text_model, tmp_path, 12, mask=False)[0]["input_ids"]
    assert tokens.shape == (12, 16)
    assert sum(bytes(row.tolist()) in b"import this\n" * 50 for row in tokens) >= 11


def test_a_tokenizer_of_the_folder_is_used(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["[UNK]", "[MASK]", "a", "b", "c"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = save_text_model(tmp_path / "m", vocab_size=8, mask_token_id=1, length=8)
    with pytest.raises(UnsupportedModelError, match="no tokenizer"):
        calls_of(path, [{"text": "a b"}], 1)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", mask_token="[MASK]"
    ).save_pretrained(path)
    tokens = calls_of(path, [{"text": "a b c other"}], 1, mask=False)[0]["input_ids"]
    assert tokens.tolist() == [[2, 3, 4, 0, 2, 3, 4, 0]]


# ---- noised images, sounds and latents


def test_images_are_noised_by_the_scheduler(image_model):
    clean = np.zeros((3, 8, 8), np.float32) + 0.5
    rows = [{"latent": clean.tolist(), "label": 3}, {"latent": clean.tolist()}]
    calls, found = calls_of(image_model, rows, 50)
    assert found.time_span == 100
    # One in each of 50 equal parts of the schedule.
    assert (calls["timestep"].sort().values // 2).tolist() == list(range(50))
    assert (calls["class_labels"][::2] == 3).all()
    assert set(calls["class_labels"][1::2].tolist()) <= set(range(5))
    abar = diffusers.DDIMScheduler(num_train_timesteps=100).alphas_cumprod[calls["timestep"]]
    noise = (calls["hidden_states"] - 0.5 * abar.sqrt()[:, None, None, None]) / (1 - abar).sqrt()[:, None, None, None]
    # 9600 normal values.
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_flow_matching_times():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    times = schedule_times(scheduler, torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64))
    assert times.tolist() == pytest.approx([1, 500, 1000])


def test_given_timesteps_are_kept(image_model):
    values = [float(i) for i in range(192)]
    rows = [{"data": values, "timestep": 42, "shape": [3, 8, 8]}, {"data": values, "timestep": 101}, {"data": [1.0]}]
    calls, found = calls_of(image_model, rows, 2)
    assert calls["timestep"].tolist() == [42, 42]
    assert calls["hidden_states"][0].flatten().tolist() == values
    assert [line.split(":")[0] for line in found.bad.first] == ["row 2", "row 3"]


def test_images_fit_the_model():
    pillow = pytest.importorskip("PIL.Image")
    form = SampleFormat("sample", 3, (8, 16), 0, 0, torch.float32)
    image = pillow.new("RGB", (40, 40), (255, 0, 255))
    image.paste((0, 0, 0), (0, 0, 40, 5))  # cropped away
    pixels = image_tensor(image, form)
    assert pixels.shape == (3, 8, 16)
    assert pixels[0].min() == 1
    assert pixels[1].max() == -1
    assert image_tensor(image, SampleFormat("sample", 1, (8, 8), 0, 0, torch.float32)).shape == (1, 8, 8)
    with pytest.raises(ConfigurationError, match="Give latents"):
        image_tensor(image, SampleFormat("sample", 16, (8, 8), 0, 0, torch.float32))


def test_sounds_fit_the_model():
    form = SampleFormat("sample", 2, (10,), 0, 100, torch.float32)
    sound = np.arange(40, dtype=np.float32)[None]
    assert audio_tensor(sound, 100, form)[1].tolist() == list(range(15, 25))
    assert audio_tensor(sound, 800, form).shape == (2, 10)
    assert audio_tensor(sound, 800, form)[0, 5:].abs().max() == 0


# ---- whole runs


def test_data_to_a_quantized_model(text_model, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "some text of the world"}\nbad\n')
    file = calibrate_model(text_model, tmp_path / "s.parquet", CONFIG, data=tmp_path / "d.jsonl")
    facts = facts_of(file)
    assert (facts["kind"], facts["unreached"]) == ("activations", [])
    samples = facts["samples"]
    assert (samples["count"], samples["seed"], samples["skipped_rows"]) == (8, CONFIG.seed, 1)
    assert samples["source"] == str(tmp_path / "d.jsonl")
    assert "line 2" in samples["first_skipped"][0]
    result = ArrowQuantV2().quantize_diffusion_model(text_model, tmp_path / "q", CONFIG, calibration=file)
    assert result["calibration"] == "activations"
    with pytest.raises(CorruptFileError, match="line 2"):
        calibrate_model(text_model, tmp_path / "t.parquet", CONFIG, data=tmp_path / "d.jsonl", max_bad_rows=0)
    assert not (tmp_path / "t.parquet").exists()


def test_images_to_a_quantized_model(image_model, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("L", (20, 12), 9).save(tmp_path / "a.png")
    (tmp_path / "d.jsonl").write_text('{"img": "a.png", "label": 1}\n{"img": "b.png"}\n{"img": "a.png", "label": 9}\n')
    columns = {"image": "img"}
    file = calibrate_model(image_model, tmp_path / "s", CONFIG, data=tmp_path / "d.jsonl", columns=columns)
    facts = facts_of(file)
    assert facts["samples"]["skipped_rows"] == 2
    result = ArrowQuantV2().quantize_diffusion_model(image_model, tmp_path / "q", CONFIG, calibration=file)
    assert result["calibration"] == "activations"


def test_samples_of_the_caller(image_model, text_model, tmp_path):
    def call(t):
        return {"hidden_states": torch.zeros(2, 3, 8, 8), "timestep": torch.tensor([t, t]), "class_labels": [1, 2]}

    calls = [{**call(t), "class_labels": torch.tensor([1, 2])} for t in (1, 40, 60, 90, 95)]
    file = calibrate_model(image_model, tmp_path / "s", CONFIG, samples=calls)
    assert facts_of(file)["samples"] == {"source": "samples", "count": 8, "seed": CONFIG.seed}
    assert core.StatisticsFile(str(file)).boundaries == [0, 50, 100]
    file = calibrate_model(
        text_model, tmp_path / "t", CONFIG, samples=[torch.ones(1, 16, dtype=torch.int64)], time_span=4,
        time_of=lambda args, kwargs: 3.0,
    )  # fmt: skip
    assert core.StatisticsFile(str(file)).boundaries == [0, 2, 4]
    for wrong in ({"samples": []}, {"samples": [], "data": "x"}, {"samples": calls, "time_span": 0.0}):
        with pytest.raises(ConfigurationError):
            calibrate_model(image_model, tmp_path / "u", CONFIG, **wrong)


# ---- pipelines


def save_class_pipeline(path):
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        latent_channels=3, sample_size=8, norm_num_groups=8,
    )  # fmt: skip
    pipeline = diffusers.DiTPipeline(tiny_dit(classes=1000), vae, diffusers.DDIMScheduler(num_train_timesteps=100))
    pipeline.save_pretrained(path)
    return path


def save_text_pipeline(path):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8,
    )  # fmt: skip
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b"]
    path.mkdir()
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=8, pad_token="<|endoftext|>"
    )
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=6,
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=diffusers.DDIMScheduler(num_train_timesteps=1000, steps_offset=1, clip_sample=False),
        requires_safety_checker=False,
    ).save_pretrained(path / "m")  # fmt: skip
    return path / "m"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("save", "component", "prompts"),
    [(save_class_pipeline, "transformer", [1, "4"]), (save_text_pipeline, "unet", ["a b", "b"])],
)
def test_prompts_to_a_quantized_pipeline(tmp_path, save, component, prompts):
    path = save(tmp_path / "p")
    file = calibrate_pipeline(path, prompts, tmp_path / "s.parquet", CONFIG, num_inference_steps=3)
    facts = facts_of(file)
    assert (facts["kind"], facts["unreached"]) == ("activations", [])
    assert facts["samples"]["components"] == [component]
    assert facts["samples"]["count"] == 2
    result = ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "q", CONFIG, calibration=file)
    assert result["calibration"] == "activations"
    assert {layer["component"] for layer in result["layers"]} == {component}


@pytest.mark.filterwarnings("ignore")
def test_a_loaded_pipeline_gives_the_same(tmp_path):
    path = save_class_pipeline(tmp_path / "p")
    pipeline = load_pipeline(path)
    calibrate_model(path, tmp_path / "a", CONFIG, prompts=[1], num_inference_steps=2)
    calibrate_pipeline(pipeline, [1], tmp_path / "b", CONFIG, num_inference_steps=2, model_path=path)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ConfigurationError, match="no prompts"):
        calibrate_pipeline(path, [], tmp_path / "c", CONFIG)
    with pytest.raises(ConfigurationError, match="class numbers"):
        calibrate_pipeline(path, ["a dog"], tmp_path / "c", CONFIG)


def test_the_code_of_a_folder_is_never_run(tmp_path, image_model):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    index = tmp_path / "model_index.json"
    for content in (
        {"_class_name": ["evil", "Evil"]},
        {"_class_name": "DiTPipeline", "transformer": ["evil", "Evil"]},
        {"_class_name": "DiTPipeline", "transformer": ["os", "system"]},
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(UnsupportedModelError, match="never run"):
            load_pipeline(tmp_path)
    with pytest.raises(UnsupportedModelError, match="no pipeline"):
        load_pipeline(image_model)


def test_the_span_of_times_is_what_the_denoiser_is_given():
    class Denoiser(torch.nn.Module):
        def forward(self, x, timestep):
            raise AssertionError("stopped before")

    class Pipeline:
        scheduler = diffusers.DDIMScheduler(num_train_timesteps=100)
        transformer = Denoiser()

        def __call__(self, scale):
            self.transformer(torch.zeros(1), timestep=torch.tensor([99.0 * scale]))

    assert time_span(Pipeline(), ["transformer"], {"scale": 1.0}) == 100
    assert time_span(Pipeline(), ["transformer"], {"scale": 0.01}) == 1


# ---- command line


@pytest.fixture
def cli(monkeypatch, capsys):
    """The command in this process, where torch is loaded already: (exit code, standard output, standard error)."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["arrow-quant", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return (exit_.value.code or 0, *capsys.readouterr())

    return run


def test_the_command_calibrates_with_data(cli, text_model, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"body": "some text of the world"}\nbad\n')
    out = tmp_path / "s.parquet"
    options = ("--data", tmp_path / "d.jsonl", "--column", "body", "--samples", 4, "--out", out)
    code, output, error = cli("calibrate", text_model, *options, "--json")
    assert code == 0, error
    result = json.loads(output)
    assert result["calibration_file"] == str(out)
    assert result["samples"]["skipped_rows"] == 1
    code, output, _ = cli("calibrate", text_model, *options)
    assert code == 0
    assert "4 samples" in output
    assert "1 rows skipped" in output
    code, _, error = cli("calibrate", text_model, *options, "--max-bad-rows", 0)
    assert code == 3
    assert "line 2" in error
    code, _, error = cli("calibrate", text_model, "--unmasked")
    assert code == 2
    assert "--data" in error


def test_bad_rows_of_two_passes_count_once(text_model):
    bad = calls_of(text_model, [{"text": "0123456789abcdef"}, {"text": 3}], 6)[1].bad
    assert isinstance(bad, BadRows)
    assert len(bad) == 1
