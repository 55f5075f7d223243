"""DiffusionQuantConfig: checked when made, files and profiles."""

from __future__ import annotations

import pytest
from arrow_quant_v2 import ConfigurationError, DiffusionQuantConfig


@pytest.mark.parametrize(
    ("profile", "bits", "group", "accuracy"), [("edge", 2, 256, 0.65), ("local", 4, 128, 0.85), ("cloud", 8, 64, 0.95)]
)
def test_profiles(profile, bits, group, accuracy):
    config = DiffusionQuantConfig.from_profile(profile)
    assert (config.bit_width, config.group_size, config.min_accuracy) == (bits, group, accuracy)


def test_default_is_local():
    assert DiffusionQuantConfig() == DiffusionQuantConfig.from_profile("local")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bit_width", 0), ("bit_width", 1), ("bit_width", 16), ("bit_width", True), ("bit_width", "4"),
        ("group_size", 0), ("group_size", 38), ("group_size", 100), ("group_size", 300),
        ("min_accuracy", -0.1), ("min_accuracy", 1.1), ("min_accuracy", float("nan")), ("min_accuracy", "high"),
        ("modality", "Image"), ("modality", "video"), ("num_threads", -1), ("keep_patterns", "norm"),
        ("fit", "best"), ("on_nonfinite", "ignore"), ("fail_fast", 1),
    ],
)  # fmt: skip
def test_refused_values_are_named(key, value):
    with pytest.raises(ConfigurationError, match=key):
        DiffusionQuantConfig(**{key: value})


def test_unknown_key_suggests_the_nearest():
    with pytest.raises(ConfigurationError, match="bit_width"):
        DiffusionQuantConfig.from_dict({"bit_widht": 4})


def test_yaml_round_trip(tmp_path):
    config = DiffusionQuantConfig.from_profile("edge", modality="audio", keep_patterns=("größe",))
    config.to_yaml(tmp_path / "c.yaml")
    assert DiffusionQuantConfig.from_yaml(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("text", ["- 1\n", "a: [", "!!python/object/apply:os.system ['true']", ""])
def test_bad_yaml(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"c\.yaml"):
        DiffusionQuantConfig.from_yaml(tmp_path / "c.yaml")


def test_yaml_profile_gives_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("deployment_profile: edge\nbit_width: 4\n")
    config = DiffusionQuantConfig.from_yaml(tmp_path / "c.yaml")
    assert (config.bit_width, config.group_size) == (4, 256)
