import json

import numpy as np
import pytest

from amc_tf.image_data import ImageData
from amc_tf.summary_parts import images


@pytest.mark.parametrize(
    ("dtype", "names", "expected"),
    [
        (np.uint8, ("cat", "dog"), {"image_dtype": "uint8", "class_names": ["cat", "dog"]}),
        (np.float32, None, {"image_dtype": "float32", "class_names": None}),
        (np.uint8, tuple(np.array(["cat", "dog"])), {"image_dtype": "uint8", "class_names": ["cat", "dog"]}),
    ],
)
def test_images_tells_how_pixels_and_classes_are_to_be_read(dtype, names, expected):
    data = ImageData(np.zeros((2, 4, 4, 3), dtype), np.array([0, 1]), 2, names)
    told = json.loads(json.dumps(images(data, "0..1")))
    assert told == {"input_range": "0..1", **expected}
