"""The exception classes: bases, messages, pickling, and the mapping from the core's codes."""

from __future__ import annotations

import errno
import pickle

import pytest
from arrow_quant_v2 import errors


@pytest.mark.parametrize("code", sorted(errors.ERROR_CLASSES))
def test_each_core_code_has_its_class(code: str) -> None:
    text = "a.safetensors: tensor 'w': it is wrong. Mend it."
    error = errors.from_core(code, text, "a.safetensors", "w", "Mend it.")
    assert type(error) is errors.ERROR_CLASSES[code]
    assert isinstance(error, errors.ArrowQuantError)
    assert str(error) == text
    assert (error.code, error.message, error.file, error.tensor, error.remedy) == (
        code, text, "a.safetensors", "w", "Mend it.",
    )  # fmt: skip


@pytest.mark.parametrize("cls", list(errors.ERROR_CLASSES.values()))
def test_errors_survive_pickling(cls: type[errors.ArrowQuantError]) -> None:
    error = cls.compose("it is wrong", file="a", tensor="b", remedy="Mend it.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_unknown_code_gives_the_base_class() -> None:
    error = errors.from_core("new_kind", "it is wrong")
    assert type(error) is errors.ArrowQuantError
    assert error.code == "new_kind"
    assert str(error) == "it is wrong"


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.ShapeMismatchError, ValueError),
        (errors.ModelNotFoundError, FileNotFoundError),
        (errors.ResourceError, OSError),
    ],
)
def test_errors_are_what_python_programmers_catch(cls: type[errors.ArrowQuantError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="it is wrong"):
        raise cls("it is wrong")


def test_model_not_found_has_the_errno() -> None:
    assert errors.ModelNotFoundError("no model", file="x").errno == errno.ENOENT


def test_composed_messages_say_where_what_and_what_to_do() -> None:
    error = errors.CorruptFileError.compose("it is wrong", file="a", tensor="b", remedy="Mend it.")
    assert str(error) == "a: tensor 'b': it is wrong. Mend it."
    assert str(errors.CorruptFileError.compose("it is wrong")) == "it is wrong"
