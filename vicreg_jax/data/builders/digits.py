"""The 1797 handwritten digits that scikit-learn carries: a data set that needs no network."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from vicreg_jax.data.builders.png import png_bytes


class Digits(tfds.core.GeneratorBasedBuilder):
    """8 x 8 gray images of handwritten digits; 1437 to train on, 360 to test on.

    The values 0 to 16 of the original are scaled to 0 to 255 and rounded.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, as scikit-learn carries it.",
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = np.rint(digits.images * 255 / 16).astype(np.uint8)
        train, test = train_test_split(np.arange(len(images)), test_size=0.2, random_state=1, stratify=digits.target)
        return {
            "train": self._generate_examples(images, digits.target, train),
            "test": self._generate_examples(images, digits.target, test),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> Iterator:
        for index in indices.tolist():
            yield index, {"image": png_bytes(images[index]), "label": int(labels[index])}
