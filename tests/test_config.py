"""DiffusionQuantConfig: profiles, checks, dicts, and agreement with the core's table."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrow_quant_v2.config import (
    DiffusionQuantConfig,
    Section,
    ThermodynamicConfig,
    ThermodynamicValidation,
    config_fields,
)
from arrow_quant_v2.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent

# What users of the original implementation know: edge, local, cloud, base.
PROFILES: dict[str, tuple[Any, Any, Any, Any]] = {
    "bit_width": (2, 4, 8, 4),
    "modality": (None, None, None, None),
    "num_time_groups": (5, 10, 20, 1),
    "group_size": (256, 128, 64, 128),
    "enable_time_aware": (True, True, True, False),
    "enable_spatial": (False, True, True, False),
    "min_accuracy": (0.65, 0.85, 0.95, 0.90),
    "calibration_samples": (32, 128, 512, 128),
    "deployment_profile": ("edge", "local", "cloud", "local"),
    "fail_fast": (False, False, False, False),
    "num_threads": (0, 0, 0, 0),
    "enable_streaming": (True, True, True, False),
    "skip_sensitive_layers": (False, False, False, False),
    "sensitive_layer_names": ((), (), (), ()),
    "sensitive_layer_patterns": ((), (), (), ()),
    "enable_mixed_precision": (False, False, False, False),
    "enable_entropy_adaptation": (False, False, False, False),
    "layer_bit_widths": ({}, {}, {}, {}),
    "target_model_size_mb": (None, None, None, None),
    "target_size_mb": (35, 200, 2000, None),
    "enable_memory_aware_scheduling": (True, True, True, False),
    "max_memory_limit_mb": (None, None, None, None),
    "use_arrow": (True, True, True, False),
    "enable_simd": (True, True, True, True),
    "simd_threshold": (128, 128, 128, 128),
}

PYTHON_TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "string": str,
    "string?": str | None,
    "float?": float | None,
    "list[string]": Sequence[str],
    "map[string,int]": Mapping[str, int],
    "string|list[float]": str | Sequence[float],
}


def dataclass_fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, annotation) of a dataclass and of the sections in it."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Section):
            yield from dataclass_fields(hint, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hint


def test_dataclass_has_the_fields_order_and_types_of_the_core() -> None:
    expected = [(field.name, PYTHON_TYPES[field.type]) for field in config_fields().values()]
    assert list(dataclass_fields(DiffusionQuantConfig)) == expected


def test_every_field_is_documented() -> None:
    for field in config_fields().values():
        assert field.doc.endswith("."), field.name
        assert field.expectation, field.name
        assert set(field.defaults) == {"edge", "local", "cloud", "base"}


@pytest.mark.parametrize("key", PROFILES)
def test_profile_values(key: str) -> None:
    configs = [DiffusionQuantConfig.from_profile(name) for name in ("edge", "local", "cloud", "base")]
    assert tuple(getattr(config, key) for config in configs) == PROFILES[key]


def test_thermodynamic_defaults() -> None:
    for name in ("edge", "local", "cloud", "base"):
        assert DiffusionQuantConfig.from_profile(name).to_dict()["thermodynamic"] == {
            "validation": {"enabled": False, "smoothness_threshold": 0.3, "log_violations": True},
            "boundary_smoothing": {"enabled": False, "window_size": 5, "interpolation": "linear"},
            "transition_optimization": {
                "enabled": False,
                "markov_weight": 0.1,
                "entropy_weight": 0.05,
                "learning_rate": 0.01,
                "max_iterations": 50,
                "convergence_threshold": 1e-4,
                "beta_schedule": "linear",
            },
        }


def test_default_is_local() -> None:
    assert DiffusionQuantConfig() == DiffusionQuantConfig.from_profile("local")
    assert DiffusionQuantConfig.from_dict({}) == DiffusionQuantConfig()
    assert DiffusionQuantConfig.base_mode() == DiffusionQuantConfig.from_profile("base")


def test_missing_keys_take_the_named_profile() -> None:
    assert DiffusionQuantConfig(deployment_profile="edge") == DiffusionQuantConfig.from_profile("edge")
    config = DiffusionQuantConfig.from_dict({"deployment_profile": "cloud", "bit_width": 4})
    assert (config.bit_width, config.group_size) == (4, 64)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        *(("bit_width", bits, "2, 3, 4 or 8") for bits in (0, 1, 5, 16, -4, "4", 4.0, True, None)),
        *(("num_time_groups", groups, "from 1 to 100") for groups in (0, 101, -1)),
        *(("group_size", size, "16, 32, 64, 128, 256 or -1") for size in (0, 38, 100, 300, -2)),
        *(("min_accuracy", value, "from 0 to 1") for value in (-0.01, 1.01, "high")),
        ("calibration_samples", 0, "at least 1"),
        ("modality", "video", "text, code, image or audio"),
        ("modality", "Image", "text, code, image or audio"),
        ("deployment_profile", "base", "edge, local or cloud"),
        ("num_threads", -1, "from 0"),
        ("target_size_mb", 0.0, "above 0"),
        ("layer_bit_widths", {"a": 5}, "2, 3, 4, 8 or 16"),
        ("enable_spatial", 1, "true or false"),
        ("enable_simd", "yes", "true or false"),
        ("on_nonfinite", "ignore", "error or keep"),
        ("dampening", 0.0, "above 0"),
        ("keep_patterns", "norm", "list of regular expressions"),
        ("thermodynamic.validation.smoothness_threshold", 1.1, "from 0 to 1"),
        ("thermodynamic.validation.smoothness_threshold", -0.1, "from 0 to 1"),
        *(("thermodynamic.boundary_smoothing.window_size", size, "from 1 to 20") for size in (0, 21)),
        ("thermodynamic.boundary_smoothing.interpolation", "spline", "linear, cubic or sigmoid"),
        *(("thermodynamic.transition_optimization.learning_rate", rate, "above 0, at most 1") for rate in (0.0, 1.5)),
        ("thermodynamic.transition_optimization.markov_weight", -0.1, "at least 0"),
        ("thermodynamic.transition_optimization.entropy_weight", -0.1, "at least 0"),
        ("thermodynamic.transition_optimization.max_iterations", 0, "at least 1"),
        ("thermodynamic.transition_optimization.convergence_threshold", 0.0, "above 0"),
        ("thermodynamic.transition_optimization.beta_schedule", "square", "linear or cosine"),
    ],
)
def test_bad_values_name_key_value_and_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DiffusionQuantConfig.from_dict({key: value})
    assert caught.value.message.startswith(f"{key} is {json.dumps(value, separators=(',', ':'))}; it must be ")
    assert allowed in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("bit_width", (2, 3, 4, 8)),
        ("group_size", (16, 32, 64, 128, 256, -1)),
        ("num_time_groups", (1, 100)),
        ("min_accuracy", (0, 1, 0.5)),
        ("layer_bit_widths", ({"a.*": 16, "b": 3},)),
        ("thermodynamic.boundary_smoothing.window_size", (1, 20)),
        ("thermodynamic.transition_optimization.learning_rate", (1, 1e-9)),
    ],
)
def test_ends_of_ranges_are_allowed(key: str, values: tuple[Any, ...]) -> None:
    for value in values:
        DiffusionQuantConfig.from_dict({key: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ConfigurationError, match="min_accuracy is"):
        DiffusionQuantConfig(min_accuracy=value)
    with pytest.raises(ConfigurationError, match=r"time_weighting\[1\] is"):
        DiffusionQuantConfig(time_weighting=[1, value], num_time_groups=2)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("bitwidth", "bit_width"),
        ("bits", "bit_width"),
        ("groupsize", "group_size"),
        ("Group-Size", "group_size"),
        ("min_acuracy", "min_accuracy"),
        ("layer_bits", "layer_bit_widths"),
        ("threads", "num_threads"),
    ],
)
def test_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown key '{key}'.*nearest key is '{nearest}'"):
        DiffusionQuantConfig.from_dict({key: 4})
    with pytest.raises(ConfigurationError, match=f"nearest key is '{nearest}'"):
        DiffusionQuantConfig(**typing.cast(Any, {key: 4}))
    with pytest.raises(ConfigurationError, match=f"nearest key is '{nearest}'"):
        DiffusionQuantConfig().with_overrides({key: 4})


def test_unknown_nested_key_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"nearest key is 'thermodynamic\.validation\.enabled'"):
        DiffusionQuantConfig.from_dict({"thermodynamic": {"validation": {"enable": True}}})


@pytest.mark.parametrize("value", [{1, 2}, object(), np.zeros(2), b"x", pytest.param(10**5000, id="huge"), 1j])
def test_values_of_other_types_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError):
        DiffusionQuantConfig.from_dict({"seed": value})


def test_a_mapping_that_holds_itself_is_refused() -> None:
    values: dict[str, Any] = {}
    values["layer_bit_widths"] = values
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        DiffusionQuantConfig.from_dict(values)


@pytest.mark.parametrize("values", [None, [], "bit_width: 4", 4, {4: 4}, {"layer_bit_widths": {4: 4}}])
def test_only_mappings_with_text_keys_are_configurations(values: Any) -> None:
    with pytest.raises(ConfigurationError):
        DiffusionQuantConfig.from_dict(values)


def test_numpy_scalars_and_paths_are_values() -> None:
    config = DiffusionQuantConfig(
        bit_width=np.int64(8),  # type: ignore[arg-type]
        min_accuracy=np.float32(0.5),  # type: ignore[arg-type]
        calibration=Path("stats.parquet"),  # type: ignore[arg-type]
    )
    assert (config.bit_width, config.min_accuracy, config.calibration) == (8, 0.5, "stats.parquet")
    assert type(config.bit_width) is int


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="time_weighting has 2 values, but num_time_groups is 10"):
        DiffusionQuantConfig(time_weighting=[1, 2])
    with pytest.raises(ConfigurationError, match="needs activations"):
        DiffusionQuantConfig(rounding="ldlq", calibration="none")
    with pytest.raises(ConfigurationError, match="residual_binary"):
        DiffusionQuantConfig(grid="residual_binary")


def test_sections_are_given_as_objects_mappings_or_dotted_keys() -> None:
    section = ThermodynamicConfig(validation=ThermodynamicValidation(enabled=True))
    assert section.boundary_smoothing.window_size == 5
    expected = DiffusionQuantConfig(thermodynamic=section)
    assert expected.thermodynamic.validation.enabled
    assert DiffusionQuantConfig.from_dict({"thermodynamic": {"validation": {"enabled": True}}}) == expected
    assert DiffusionQuantConfig().with_overrides({"thermodynamic.validation.enabled": True}) == expected
    assert DiffusionQuantConfig().with_overrides(thermodynamic=section) == expected
    with pytest.raises(ConfigurationError, match=r"thermodynamic\.validation\.smoothness_threshold is 2"):
        ThermodynamicValidation(smoothness_threshold=2)
    with pytest.raises(ConfigurationError, match="given twice"):
        DiffusionQuantConfig().with_overrides(
            {"thermodynamic": {"validation": {"enabled": True}}, "thermodynamic.validation.enabled": False}
        )


def test_overrides_change_what_they_name_only() -> None:
    edge = DiffusionQuantConfig.from_profile("edge")
    changed = edge.with_overrides(bit_width=4, keep_patterns=["norm"])
    assert changed.to_dict() == edge.to_dict() | {"bit_width": 4, "keep_patterns": ["norm"]}
    assert edge.bit_width == 2
    with pytest.raises(ConfigurationError):
        edge.with_overrides(bit_width=5)


def test_instances_cannot_be_changed() -> None:
    config = DiffusionQuantConfig(layer_bit_widths={"a": 2}, keep_patterns=["x"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.bit_width = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="with_overrides"):
        config.layer_bit_widths["b"] = 2  # type: ignore[index]
    assert config.keep_patterns == ("x",)


def test_copies_and_pickles_are_equal() -> None:
    config = DiffusionQuantConfig(layer_bit_widths={"a": 2}, time_weighting=[1.0, 2.0], num_time_groups=2)
    for same in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), dataclasses.replace(config)):
        assert same == config
        assert hash(same) == hash(config)
    assert dataclasses.asdict(config)["layer_bit_widths"] == {"a": 2}
    assert config != config.with_overrides(seed=1)


def test_order_of_layer_patterns_counts() -> None:
    first = DiffusionQuantConfig(layer_bit_widths={"z": 2, "a": 4})
    assert list(first.layer_bit_widths) == ["z", "a"]
    assert list(first.to_dict()["layer_bit_widths"]) == ["z", "a"]
    assert first != DiffusionQuantConfig(layer_bit_widths={"a": 4, "z": 2})


def test_size_budget() -> None:
    assert DiffusionQuantConfig().size_budget_mb == 200
    assert DiffusionQuantConfig(target_model_size_mb=50).size_budget_mb == 50
    assert DiffusionQuantConfig(target_size_mb=None).size_budget_mb is None


@pytest.mark.parametrize("profile", ["phone", "", "Edge", None])
def test_unknown_profile(profile: Any) -> None:
    with pytest.raises(ConfigurationError, match="edge, local, cloud or base"):
        DiffusionQuantConfig.from_profile(profile)


def test_document_is_up_to_date() -> None:
    script = ROOT / "tools" / "generate_config_docs.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_yaml_of_the_document_is_valid() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    config = DiffusionQuantConfig.from_yaml_text(text.split("```yaml\n")[1].split("```")[0])
    assert config.keep_patterns == (r"attn\.to_out",)
