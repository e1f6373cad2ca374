"""Networks by name."""

import pytest

from amc_tf.errors import ModelError
from amc_tf.models import zoo
from amc_tf.models.resnet import cifar_plain


def test_list_names_the_demo() -> None:
    assert zoo.list_zoo() == ("demo", "plain20")


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


def test_plain20_has_the_layers_of_the_builder_and_no_shortcut() -> None:
    trained, built = zoo.load_zoo_model("plain20"), cifar_plain(20)
    assert [layer.name for layer in trained.layers] == [layer.name for layer in built.layers]
    assert [array.shape for array in trained.get_weights()] == [array.shape for array in built.get_weights()]
    assert not any(type(layer).__name__ == "Add" for layer in trained.layers)
