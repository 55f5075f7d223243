"""Configurations from YAML files and environment variables, and which source wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from arrow_quant_v2.config import DiffusionQuantConfig, config_fields
from arrow_quant_v2.config_fields import ConfigField, flatten
from arrow_quant_v2.errors import ConfigurationError
from hypothesis import given, settings
from hypothesis import strategies as st

# Texts that YAML could take for something else, and any other.
TEXTS = st.one_of(
    st.sampled_from(
        [
            "1e-4",
            "yes",
            "null",
            "~",
            "010",
            "0x1F",
            ".inf",
            "1:30",
            "2001-01-01",
            "<<",
            "- a",
            "a: b",
            "#",
            "\x85",
            "a\n",
            " b ",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
)
SAFE_PATTERNS = st.from_regex(r"\A[a-z0-9_.*]{0,8}[a-z]\Z").filter(lambda text: text[0] != "*" and "**" not in text)


def values_of(field: ConfigField) -> st.SearchStrategy[Any]:
    """Valid values of a field, as JSON has them."""
    low = 0.0 if field.minimum is None else field.minimum
    high = low + 1000.0 if field.maximum is None else field.maximum
    numbers = st.floats(low, high, exclude_min=field.above_minimum)
    texts = st.sampled_from(field.words) if field.words else TEXTS
    patterns = SAFE_PATTERNS if field.pattern else TEXTS
    integers = st.sampled_from(field.numbers) if field.numbers else st.integers(int(low), int(high))
    by_type: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "int": integers,
        "float": numbers,
        "string": texts,
        "string?": st.none() | texts,
        "float?": st.none() | numbers,
        "list[string]": st.lists(patterns, max_size=3),
        "map[string,int]": st.dictionaries(patterns, integers, max_size=3),
        "string|list[float]": texts,
    }
    return by_type[field.type]


CONTRADICTABLE = {"rounding", "grid", "objective"}  # with others: tested by themselves
CONFIGS = st.fixed_dictionaries(
    {},
    optional={field.name: values_of(field) for field in config_fields().values() if field.name not in CONTRADICTABLE},
)


@settings(max_examples=150, deadline=None)
@given(values=CONFIGS)
def test_yaml_dict_and_json_give_the_same_back(values: dict[str, Any]) -> None:
    config = DiffusionQuantConfig.from_dict(values)
    assert DiffusionQuantConfig.from_yaml_text(config.to_yaml()) == config
    assert DiffusionQuantConfig.from_dict(config.to_dict()) == config
    assert DiffusionQuantConfig.from_dict(json.loads(config.to_json())) == config
    flat = flatten(config.to_dict())
    assert {name: flat[name] for name in values} == values


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=80), st.from_regex(r"\A([a-z_]{1,12}: ?[\[\]{}&*!|>'\"%@0-9a-z., -]{0,12}\n){1,4}\Z")
    )
)
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    try:
        DiffusionQuantConfig.from_yaml_text(text)
    except ConfigurationError as error:
        assert str(error)  # noqa: PT017


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "größe config.yaml"
    config = DiffusionQuantConfig.from_profile("edge").with_overrides(
        keep_patterns=["größe"], layer_bit_widths={"z": 8, "a": 2}
    )
    text = config.to_yaml(path)
    assert path.read_text(encoding="utf-8") == text
    assert DiffusionQuantConfig.from_yaml(path) == config
    assert DiffusionQuantConfig.from_yaml(str(path)) == config


def test_missing_keys_take_the_profile_of_the_file() -> None:
    assert DiffusionQuantConfig.from_yaml_text("deployment_profile: edge") == DiffusionQuantConfig.from_profile("edge")
    config = DiffusionQuantConfig.from_yaml_text("bit_width: 8")
    assert config == DiffusionQuantConfig(bit_width=8)
    assert not config.fail_fast


def test_scalars_follow_yaml_1_2() -> None:
    config = DiffusionQuantConfig.from_yaml_text(
        "thermodynamic: {transition_optimization: {convergence_threshold: 1e-4}}\n"
        "sensitive_layer_names: [no, 010, 1_000, 2001-01-01, 1:30]\nmodality: ~\nvariant:\nenable_spatial: False\n"
    )
    assert config.thermodynamic.transition_optimization.convergence_threshold == 1e-4
    assert config.sensitive_layer_names == ("no", "010", "1_000", "2001-01-01", "1:30")
    assert config.modality is None
    assert not config.enable_spatial


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("seed: 1\nbit_width: 5\n", 2, "bit_width is 5"),
        ("seed: 1\n\nbitwidth: 4\n", 3, "unknown key 'bitwidth'"),
        ("thermodynamic:\n  validation:\n    enable: true\n", 3, "unknown key"),
        ("thermodynamic:\n  validation: 4\n", 2, "must be a mapping"),
        ("thermodynamic: 4\n", 1, "must be a mapping"),
        ("seed: 1\nbit_width: 4\nseed: 2\n", 3, "'seed' is given twice"),
        ("layer_bit_widths:\n  a: 2\n  a: 4\n", 3, "'a' is given twice"),
        ("seed: 1\nmin_accuracy: .nan\n", 2, "not a finite number"),
        ("seed: 1\nmin_accuracy: -.inf\n", 2, "not a finite number"),
        ("components: &a [x]\nkeep_patterns: *a\n", 2, "alias"),
        ("seed: 1\nmodality: !!python/object/apply:os.system ['true']\n", 2, "not allowed"),
        ("seed: !!timestamp 1\n", 1, "not allowed"),
        ("seed: !!int x\n", 1, "not of the type"),
        ("components: !!set {a: null}\n", 1, "not allowed"),
        ("seed: 1\n4: 2\n", 2, "not a text"),
        ("? [a]\n: 2\n", 1, "not a text"),
        ("seed: 1\nkeep_patterns: [a\nbit_width: 4\n", 3, "not YAML"),
        ("seed: 1\n\tbit_width: 4\n", 2, "not YAML"),
        ("seed: 1\n---\nseed: 2\n", 2, "not YAML"),
        ("- bit_width\n", 1, "not a mapping"),
        ("bit_width", 1, "not a mapping"),
        ("seed: " + "[" * 2000, 1, "nested too deeply"),
        ("seed: 1\nseed2: {" + "a: {" * 2000, 2, "nested too deeply"),
        ("seed: " + "9" * 5000 + "\n", 1, "seed is"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        DiffusionQuantConfig.from_yaml(path)
    assert caught.value.file == f"{path}:{line}"
    assert message in caught.value.message
    assert caught.value.remedy
    with pytest.raises(ConfigurationError, match=f"^line {line}: "):
        DiffusionQuantConfig.from_yaml_text(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        (b"seed: \xff\n", "not UTF-8"),
        (b"seed: \x00\n", "not YAML"),
        (b"#" * 1_000_001, "longer than"),
        (b"rounding: ldlq\ncalibration: none\n", "needs activations"),
        (b'variant: "\\ud800"\n', "JSON"),
    ],
)
def test_faults_without_a_line_name_the_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=message) as caught:
        DiffusionQuantConfig.from_yaml(path)
    assert caught.value.file.startswith(str(path))


@pytest.mark.parametrize("width", range(98, 103))
def test_long_names_are_cut_between_characters(width: int) -> None:
    long = "a" * (width - 20) + "€"
    for text in (f"{'a' * width}€: 1\n", f"seed: {long}\n", f"keep_patterns: ['{long}{'(' * 99}']\n"):
        with pytest.raises(ConfigurationError) as caught:
            DiffusionQuantConfig.from_yaml_text(text)
        assert "\ufffd" not in str(caught.value)


def test_unreadable_files_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        DiffusionQuantConfig.from_yaml(tmp_path / "missing.yaml")
    with pytest.raises(ConfigurationError, match="Is a directory"):
        DiffusionQuantConfig.from_yaml(tmp_path)


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfbit_width: 8\n")
    assert DiffusionQuantConfig.from_yaml(path).bit_width == 8


# A value other than the default for every key, and its text in the environment.
ENVIRONMENT_VALUES: dict[str, tuple[str, Any]] = {
    "bool": ("", None),  # the opposite of the default
    "string?": ("image", "image"),
    "float?": ("12.5", 12.5),
    "list[string]": ('["a", "b"]', ["a", "b"]),
    "map[string,int]": ('{"a": 8}', {"a": 8}),
    "string|list[float]": ("sensitivity", "sensitivity"),
}


def environment_value(field: ConfigField) -> tuple[str, Any]:
    """(text, value) that differs from the default."""
    default = field.defaults["local"]
    if field.type == "bool":
        return str(not default).lower(), not default
    if field.type == "string":
        word = next((word for word in field.words if word not in {default, "residual_binary"}), "stats.parquet")
        return word, word
    if field.type == "int":
        number = next((number for number in field.numbers if number != default), default + 1)
        return str(number), number
    if field.type == "float":
        return "0.25", 0.25
    return ENVIRONMENT_VALUES[field.type]


@pytest.mark.parametrize("key", list(config_fields()))
def test_every_key_has_an_environment_variable(key: str) -> None:
    field = config_fields()[key]
    text, value = environment_value(field)
    assert value != field.defaults["local"]
    for variable in field.env:
        config = DiffusionQuantConfig.from_env({variable: text})
        assert flatten(config.to_dict())[key] == value
        changed = DiffusionQuantConfig().apply_env_overrides({variable: text})
        assert changed == DiffusionQuantConfig().with_overrides({key: value})


def test_variables_of_older_scripts() -> None:
    names = {name for field in config_fields().values() for name in field.env}
    for suffix in (
        "BIT_WIDTH",
        "NUM_TIME_GROUPS",
        "GROUP_SIZE",
        "MIN_ACCURACY",
        "CALIBRATION_SAMPLES",
        "FAIL_FAST",
        "NUM_THREADS",
        "ENABLE_STREAMING",
        "ENABLE_MEMORY_AWARE",
        "MAX_MEMORY_MB",
    ):
        assert f"ARROW_QUANT_{suffix}" in names
    config = DiffusionQuantConfig.from_env({"ARROW_QUANT_MAX_MEMORY_MB": "1", "ARROW_QUANT_MAX_MEMORY_LIMIT_MB": "2"})
    assert config.max_memory_limit_mb == 2


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("BIT_WIDTH", "four"),
        ("BIT_WIDTH", "4.0"),
        ("BIT_WIDTH", "4_0"),
        ("BIT_WIDTH", "5"),
        ("BIT_WIDTH", "9" * 5000),
        ("MIN_ACCURACY", "high"),
        ("MIN_ACCURACY", "nan"),
        ("MIN_ACCURACY", "inf"),
        ("MIN_ACCURACY", "1e999"),
        ("MIN_ACCURACY", "1.5"),
        ("FAIL_FAST", "perhaps"),
        ("FAIL_FAST", "2"),
        ("MODALITY", "video"),
        ("KEEP_PATTERNS", "norm"),
        ("KEEP_PATTERNS", '["("]'),
        ("KEEP_PATTERNS", "{}"),
        ("LAYER_BIT_WIDTHS", '{"a":5}'),
        ("TIME_WEIGHTING", "[1,"),
        ("TIME_WEIGHTING", "[" * 100_000),
        ("THERMODYNAMIC_BOUNDARY_SMOOTHING_WINDOW_SIZE", "0"),
    ],
)
def test_bad_variables_are_named_with_their_value(variable: str, text: str) -> None:
    name = f"ARROW_QUANT_{variable}"
    for make in (DiffusionQuantConfig.from_env, DiffusionQuantConfig().apply_env_overrides):
        with pytest.raises(ConfigurationError) as caught:
            make({name: text})
        assert caught.value.file == f"environment variable {name}"
        assert text.strip('[]{}()"')[:10] in caught.value.message
        assert len(str(caught.value)) < 600


def test_empty_variables_count_as_unset_and_others_are_left_alone() -> None:
    config = DiffusionQuantConfig.from_env({"ARROW_QUANT_BIT_WIDTH": " ", "ARROW_QUANT_ISA": "scalar", "PATH": "/bin"})
    assert config == DiffusionQuantConfig()


def test_null_variables_are_no_value() -> None:
    config = DiffusionQuantConfig.from_env({"ARROW_QUANT_TARGET_SIZE_MB": "null", "ARROW_QUANT_MODALITY": "null"})
    assert config.target_size_mb is None
    assert config.modality is None


def test_variables_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROW_QUANT_BIT_WIDTH", "8")
    assert DiffusionQuantConfig().bit_width == 4
    assert DiffusionQuantConfig.from_env().bit_width == 8
    assert DiffusionQuantConfig().apply_env_overrides().bit_width == 8


def test_keyword_beats_environment_beats_file_beats_profile(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("bit_width: 3\ngroup_size: 32\nnum_time_groups: 7\ndeployment_profile: cloud\n", encoding="utf-8")
    environ = {"ARROW_QUANT_BIT_WIDTH": "8", "ARROW_QUANT_GROUP_SIZE": "64"}
    config = DiffusionQuantConfig.resolve(profile="edge", path=path, environ=environ, overrides={"bit_width": 4})
    assert (config.bit_width, config.group_size, config.num_time_groups) == (4, 64, 7)
    assert (config.deployment_profile, config.min_accuracy) == ("edge", 0.65)
    config = DiffusionQuantConfig.resolve(path=path, environ={})
    assert (config.deployment_profile, config.min_accuracy) == ("cloud", 0.95)
    assert DiffusionQuantConfig.resolve(profile="base", environ={}) == DiffusionQuantConfig.base_mode()


def test_a_stronger_source_mends_a_weaker_one(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("bit_width: 5\ngrid: residual_binary\n", encoding="utf-8")
    config = DiffusionQuantConfig.resolve(path=path, environ={}, overrides={"bit_width": 2})
    assert (config.bit_width, config.grid) == (2, "residual_binary")
    with pytest.raises(ConfigurationError, match="bit_width is 6") as caught:
        DiffusionQuantConfig.resolve(path=path, environ={}, overrides={"bit_width": 6})
    assert caught.value.file != f"{path}:1"
