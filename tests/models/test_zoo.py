"""Networks by name."""

import pytest

from amc_tf.errors import ModelError
from amc_tf.models import zoo


def test_list_names_the_demo() -> None:
    assert zoo.list_zoo() == ("demo",)


def test_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ModelError, match=r"no network 'mobilnet'.*one of: demo"):
        zoo.load_zoo_model("mobilnet")


def test_damaged_file_is_one_clear_sentence(tmp_path, monkeypatch) -> None:
    (tmp_path / "demo_mobilenet.keras").write_bytes(b"not a model")
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "zoo.py"))
    with pytest.raises(ModelError, match="missing or damaged"):
        zoo.load_zoo_model("demo")


def test_missing_file_is_one_clear_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "zoo.py"))
    with pytest.raises(ModelError, match="missing or damaged"):
        zoo.load_zoo_model("demo")
