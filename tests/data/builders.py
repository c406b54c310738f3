"""Small tfds datasets. They are not registered: tfds finds them by name only where they have been prepared."""

import numpy as np
import tensorflow_datasets as tfds

from tests.data.files import png

_RNG = np.random.default_rng(0)


def _builder(name, features, examples):
    """A builder class; `features` is a function, because tfds creates features with a builder."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features()))

    with tfds.core.registered.skip_registration():
        return type(
            name,
            (tfds.core.GeneratorBasedBuilder,),
            {
                "VERSION": tfds.core.Version("1.0.0"),
                "__module__": __name__,
                "__doc__": "A dataset for the tests.",
                "pkg_dir_path": None,
                "_info": info,
                "_split_generators": lambda self, manager: {"train": self._generate_examples()},
                "_generate_examples": lambda self: enumerate(examples),
            },
        )


PHOTOS = [_RNG.integers(0, 256, (height, width, 3), np.uint8) for height, width in [(4, 8), (9, 6), (5, 5)]]
SetOfPhotos = _builder(
    "SetOfPhotos",
    lambda: {
        "image": tfds.features.Image(),
        "thumbnail": tfds.features.Image(shape=(1, 1, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
        "coarse_label": tfds.features.ClassLabel(num_classes=2),
        "title": tfds.features.Text(),
    },
    [
        {
            "image": png(photo),
            "thumbnail": png(photo[:1, :1]),
            "label": index,
            "coarse_label": 0,
            "title": "a",
        }
        for index, photo in enumerate(PHOTOS)
    ],
)
SetWithoutLabels = _builder(
    "SetWithoutLabels",
    lambda: {"picture": tfds.features.Image(shape=(4, 4, 1))},
    [{"picture": png(np.full((4, 4), value, np.uint8))} for value in range(9)],
)
SetOfWords = _builder("SetOfWords", lambda: {"text": tfds.features.Text()}, [{"text": "one"}])
SetOfPairs = _builder(
    "SetOfPairs",
    lambda: {"left": tfds.features.Image(shape=(2, 2, 1)), "right": tfds.features.Image(shape=(2, 2, 1))},
    [{"left": png(np.zeros((2, 2), np.uint8)), "right": png(np.zeros((2, 2), np.uint8))}],
)
SetOf16Bits = _builder(
    "SetOf16Bits",
    lambda: {"image": tfds.features.Image(shape=(16, 16, 1), dtype=np.uint16)},
    [{"image": png(_RNG.integers(7300, 8201, (16, 16), np.uint16))} for _ in range(4)],
)
