"""Any data set in the file format of MNIST, from a directory that the user brings."""

import dataclasses
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vicreg_jax.data.builders.png import png_bytes
from vicreg_jax.data.idx import IdxDirectory


@dataclasses.dataclass
class IdxConfig(tfds.core.BuilderConfig):
    """Which directory. The config's name carries a digest of the files, so that two directories never mix."""

    directory: IdxDirectory | None = None


class IdxImages(tfds.core.GeneratorBasedBuilder):
    """Gray images, and labels where there are any, from IDX files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        directory = self.builder_config.directory
        features = {"image": tfds.features.Image(shape=(*directory.image_shape, 1), encoding_format="png")}
        if directory.num_classes is not None:
            features["label"] = tfds.features.ClassLabel(num_classes=directory.num_classes)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"IDX files of {directory.path}.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        directory = self.builder_config.directory
        return {split: self._generate_examples(directory, split) for split in directory.splits}

    def _generate_examples(self, directory: IdxDirectory, split: str) -> Iterator:
        images, labels = directory.read(split)
        for index, image in enumerate(images):
            label = {} if labels is None else {"label": int(labels[index])}
            yield index, {"image": png_bytes(image), **label}
