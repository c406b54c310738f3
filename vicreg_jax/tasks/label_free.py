"""Metrics without labels of a trained network: RankMe, alpha-ReQ and LiDAR, of some images and random views of them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.augment import Preprocessing, View, central_view, make_view
from vicreg_jax.data import Batch, Dataset
from vicreg_jax.data.collection import LabeledImage
from vicreg_jax.evaluation import alpha_req, extract_features, lidar, rank_me
from vicreg_jax.tasks.features import SplitEvaluation, evenly_spaced
from vicreg_jax.training.state import run_key

VIEWS = 10  # of each image
_BATCH_SIZE = 32  # images per pass, with all their views
_STREAM = 2  # of random numbers: what the run's key is folded with


@dataclasses.dataclass(frozen=True)
class LabelFree:
    """Computes the metrics of one layer of a network.

    Attributes:
        apply: `(variables, images [batch, size, size, channels]) -> [batch, dim]`; the images are normalized.
        layer: what that is: `embeddings` or `features`.
        views: the recipe; its first two draw half of the views of an image each, or all where they are the same.
        preprocessing: size and normalization of the views.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    layer: str
    views: tuple[View, ...]
    preprocessing: Preprocessing

    def metrics(self, evaluation: SplitEvaluation, variables: Any, dataset: Dataset) -> dict[str, Any] | None:
        """The metrics on `evaluation.label_free_images` images of the dataset, evenly spaced, or on all of fewer.

        Several processes call it together.

        RankMe and alpha-ReQ are of the central views, LiDAR is of `VIEWS` random views of each image. The draws depend
        only on the seed and on the image's index.

        Returns:
            `rankme`, `lidar` and `alpha_req`, None where it is not defined (a single image, values that are not finite,
            fewer than six dimensions for `alpha_req`); and `layer`, `images` and `views`. None without images.
        """
        count = evaluation.config.evaluation.label_free_images
        if count == 0:
            return None
        batches = evaluation.batches(_numbered(dataset, count), _BATCH_SIZE)
        inputs = variables, np.uint32(evaluation.config.seed)
        found, _ = extract_features(self._central_and_random, inputs, batches)
        central, random = found[:, 0], found[:, 1:]
        return {
            "rankme": _where_defined(rank_me, central),
            "lidar": _where_defined(lidar, random),
            "alpha_req": _where_defined(alpha_req, central),
            "layer": self.layer,
            "images": len(found),
            "views": VIEWS,
        }

    @cached_property
    def _central_and_random(self) -> Callable[[Any, Batch], jax.Array]:
        """`((variables, seed), batch) -> [batch, 1 + VIEWS, dim]`; the labels of the batch are the images' indices."""

        def layers(inputs: tuple[Any, jax.Array], batch: Batch) -> jax.Array:
            variables, seed = inputs
            views = [central_view(batch["image"], batch["aspect_ratio"], self.preprocessing)[:, None]]
            recipe = tuple(dict.fromkeys(self.views[:2]))
            for number, view in enumerate(recipe):
                key = jax.random.fold_in(jax.random.fold_in(run_key(seed), _STREAM), number)
                views.append(_random_views(key, VIEWS // len(recipe), batch, view, self.preprocessing))
            images = jnp.concatenate(views, axis=1)
            outputs = self.apply(variables, images.reshape(-1, *images.shape[2:]))
            return outputs.reshape(*images.shape[:2], -1)

        return jax.jit(layers)


def _random_views(key: jax.Array, count: int, batch: Batch, view: View, preprocessing: Preprocessing) -> jax.Array:
    """Views of each image by its label, `[batch, count, size, size, channels]`; see `make_view`."""

    def draw(number: jax.Array, index: jax.Array, image: jax.Array, aspect_ratio: jax.Array) -> jax.Array:
        own_key = jax.random.fold_in(jax.random.fold_in(key, index), number)
        return make_view(own_key, image[None], aspect_ratio[None], view, preprocessing)[0]

    of_image = jax.vmap(draw, in_axes=(0, None, None, None))
    return jax.vmap(partial(of_image, jnp.arange(count)))(batch["label"], batch["image"], batch["aspect_ratio"])


class _Numbered(Sequence[LabeledImage]):
    """Some images of a source, labeled with their indices."""

    def __init__(self, source: Sequence[LabeledImage], indices: Sequence[int]):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: Any) -> Any:
        index = self._indices[position]
        return self._source[index][0], index


def _numbered(dataset: Dataset, count: int) -> Dataset:
    source = _Numbered(dataset.source, evenly_spaced(len(dataset), count).tolist())
    return dataclasses.replace(dataset, source=source, parts=(), class_names=None, unreadable=set())


def _where_defined(metric: Callable[[np.ndarray], float], features: np.ndarray) -> float | None:
    try:
        return metric(features)
    except ValueError:
        return None
