import numpy as np
import pytest

from amc_tf.clone import clone_with, copy_weights, functional_of, is_tf_keras, iterate_layers
from amc_tf.errors import ModelError
from tests.harness import randomize
from tests.networks import classifier

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


def nested(library):
    block = library.Sequential(
        [library.Input((8, 8, 8)), library.layers.Conv2D(6, 1, name="inner")], name="block"
    )
    return classifier(library, lambda hidden: block(hidden))


def with_own_constructors(library):
    """A classifier of classes that state in their configuration no layers, as those of KerasHub do."""

    class Backbone(library.Model):
        def __init__(self, filters=6, **kwargs):
            images = library.Input((8, 8, 3), name="images")
            hidden = library.layers.Conv2D(filters, 3, name="inner")(images)
            super().__init__(inputs=images, outputs=library.layers.ReLU()(hidden), **kwargs)
            self.filters = filters

        def get_config(self):
            return {"name": self.name, "filters": self.filters}

    class Classifier(library.Model):
        def __init__(self, backbone, **kwargs):
            hidden = library.layers.GlobalAveragePooling2D()(backbone(backbone.input))
            outputs = library.layers.Dense(4, name="classes")(hidden)
            super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)
            self.backbone = backbone

        def get_config(self):
            return {"name": self.name, "backbone": library.layers.serialize(self.backbone)}

    return Classifier(Backbone(name="backbone"), name="classifier")


def test_a_model_of_a_class_of_its_own_is_copied_as_a_functional_one(library):
    model = randomize(with_own_constructors(library))
    model.get_layer("backbone").trainable = False

    def edit(path, config):
        return {**config, "filters": 5} if path == "backbone/inner" else config

    clone = clone_with(model, edit)
    assert clone.get_layer("backbone").get_layer("inner").filters == 5
    assert [path for path, _ in iterate_layers(clone)] == [path for path, _ in iterate_layers(model)]
    assert clone.name == "classifier"
    assert not clone.get_layer("backbone").get_layer("inner").trainable

    same = clone_with(model, lambda _, config: config)
    copy_weights(model, same)
    np.testing.assert_array_equal(same(IMAGES), model(IMAGES))


def test_the_flavour_is_told_by_the_classes(library):
    assert is_tf_keras(nested(library)) is (library.__name__ == "tf_keras")
    assert is_tf_keras(library.layers.ReLU()) is (library.__name__ == "tf_keras")


def test_layers_of_nested_models_are_listed_by_path(library):
    weighted = [path for path, layer in iterate_layers(nested(library)) if layer.weights]
    assert weighted == ["first", "block/inner", "classes"]


def test_a_plain_layer_has_no_functional_graph(library):
    assert functional_of(library.layers.Dense(3)) is None
    assert functional_of(library.Sequential()) is None


def test_a_clone_has_the_same_structure_new_weights_and_the_edits(library):
    model = randomize(nested(library))

    def edit(path, config):
        return {**config, "filters": 5} if path == "block/inner" else config

    clone = clone_with(model, edit)

    assert type(clone) is type(model)
    assert clone.get_layer("block").get_layer("inner").filters == 5
    assert model.get_layer("block").get_layer("inner").filters == 6
    assert clone.get_layer("classes").kernel.shape == (5, 4)
    assert [layer.name for layer in clone.layers] == [layer.name for layer in model.layers]


def test_copied_weights_give_the_same_outputs(library):
    model = randomize(nested(library))
    clone = clone_with(model, lambda _, config: config)
    copy_weights(model, clone)
    np.testing.assert_array_equal(clone(IMAGES), model(IMAGES))


def test_weights_that_a_wrapper_does_not_tell_of_are_copied(library):
    class Counting(library.layers.Layer):
        def build(self, shape):
            self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")

        def call(self, inputs):
            return inputs + self.steps

        def get_weights(self):
            return []

        def set_weights(self, weights):
            pass

    model = classifier(library, Counting(name="counting"))
    model.get_layer("counting").steps.assign(3.0)
    clone = clone_with(model, lambda _, config: config)
    copy_weights(model, clone)
    np.testing.assert_array_equal(clone(IMAGES), model(IMAGES))


def test_copying_the_weights_of_an_adapted_normalization_takes_effect(library):
    normalization = library.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(5.0, 3.0, (8, 8, 8, 3)))
    images = library.Input((8, 8, 3))
    model = library.Model(images, library.layers.Dense(2)(normalization(images)))
    clone = clone_with(model, lambda _, config: config)
    copy_weights(model, clone)
    np.testing.assert_allclose(clone(IMAGES), model(IMAGES), rtol=1e-6)


def test_a_compiled_and_trained_model_is_cloned_without_its_optimizer(library):
    model = nested(library)
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(IMAGES, np.zeros((2, 4)), verbose=0)
    clone = clone_with(model, lambda _, config: config)
    assert getattr(clone, "optimizer", None) is None
    assert model.optimizer is not None


def test_a_layer_without_get_config_is_named_as_the_cause(library):
    class Unclonable(library.layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, inputs):
            return self.function(inputs)

    model = classifier(library, Unclonable(lambda inputs: 2.0 * inputs))
    with pytest.raises(ModelError, match="cannot be rebuilt .*Unclonable.*layers without get_config"):
        clone_with(model, lambda _, config: config)


def test_custom_layers_are_copied_without_being_registered(library):
    class Scale(library.layers.Layer):
        def __init__(self, factor=2.0, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

        def call(self, inputs):
            return self.factor * inputs

    clone = clone_with(classifier(library, Scale(3.0, name="scale")), lambda _, config: config)
    assert clone.get_layer("scale").factor == 3.0
