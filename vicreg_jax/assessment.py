"""What a state of a run has learned: its accuracies beside those of raw pixels and of a random network, and pictures."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.augment import denormalise, make_views
from vicreg_jax.config import to_json
from vicreg_jax.data import Dataset, evaluation_batches, is_resident
from vicreg_jax.evaluation.diagnostics import spectrum
from vicreg_jax.evaluation.features import extract_features, raw_pixel_features
from vicreg_jax.evaluation.knn import knn_accuracy, nearest_neighbours
from vicreg_jax.evaluation.protocol import evaluate_features
from vicreg_jax.evaluation.report import NeighbourGrid, ReportContent, ViewGrid, write_report
from vicreg_jax.experiment import Experiment
from vicreg_jax.training.mesh import batch_sharding
from vicreg_jax.training.state import TrainState

Features = tuple[np.ndarray, np.ndarray]  # features [images, feature_dim] float32, labels [images] int32

_PICTURED = 8  # images in each of the report's grids
_SPECTRUM_IMAGES = 512
_RAW_PIXELS_SIZE = 32  # side, at most: a classifier of more pixels takes longer than the network


class Assessment:
    """Evaluates states of one experiment; what does not depend on the state is computed once."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._sharding = batch_sharding(experiment.mesh)
        self._apply = jax.jit(experiment.features())
        self._embed = jax.jit(experiment.embeddings())

    @property
    def is_labelled(self) -> bool:
        """Whether both splits have labels; without them there are no accuracies."""
        data = (self._experiment.train_data, self._experiment.test_data)
        return all(split.num_classes is not None for split in data)

    def _batches(self, dataset: Dataset) -> Any:
        config = self._experiment.config
        # A multiple of the devices, so that each has as many rows.
        batch_size = -(-config.evaluation.batch_size // self._sharding.num_devices) * self._sharding.num_devices
        return evaluation_batches(
            dataset,
            batch_size=batch_size,
            sharding=self._sharding,
            resident=is_resident(dataset, config.data.placement),
            workers=config.data.workers,
        )

    def features(self, state: TrainState, dataset: Dataset) -> Features:
        """The backbone's features of a split's central views, and its labels."""
        variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats["backbone"]}
        return extract_features(self._apply, variables, self._batches(dataset))

    def knn_accuracy(self, state: TrainState) -> dict[str, float]:
        """The kNN accuracy on the test split: what is looked at while training."""
        if not self.is_labelled:
            return {}
        experiment = self._experiment
        evaluation = experiment.config.evaluation
        accuracy = knn_accuracy(
            *self.features(state, experiment.train_data),
            *self.features(state, experiment.test_data),
            num_classes=experiment.train_data.num_classes,
            neighbours=evaluation.knn_neighbours,
            temperature=evaluation.knn_temperature,
        )
        return {"knn_accuracy": float(accuracy)}

    def accuracies(self, train: Features, test: Features) -> dict[str, Any]:
        """All accuracies on the test split that the summary holds."""
        evaluation = self._experiment.config.evaluation
        return evaluate_features(
            *train,
            *test,
            num_classes=self._experiment.train_data.num_classes,
            neighbours=evaluation.knn_neighbours,
            temperature=evaluation.knn_temperature,
            labels_per_class=evaluation.labels_per_class,
            draws=evaluation.draws,
            seed=self._experiment.config.seed,
        )

    def raw_pixels(self) -> tuple[Features, Features]:
        """Train and test features that are the pixels themselves: the baseline that costs nothing."""
        preprocessing = self._experiment.preprocessing
        unnormalised = dataclasses.replace(
            preprocessing,
            image_size=min(preprocessing.image_size, _RAW_PIXELS_SIZE),
            mean=(0.0,),
            std=(1.0,),
        )
        train, test = (
            raw_pixel_features(self._batches(split), unnormalised.central_view)
            for split in (self._experiment.train_data, self._experiment.test_data)
        )
        return train, test

    def results(self, state: TrainState, initial: TrainState) -> dict[str, Any]:
        """What the summary says of a trained state: its accuracies, and those of raw pixels and of `initial`.

        Without labels they are None.
        """
        if not self.is_labelled:
            return {
                "knn_accuracy": None,
                "linear_accuracy": None,
                "few_label_accuracy": None,
                "baselines": None,
            }
        split = (self._experiment.train_data, self._experiment.test_data)
        trained, random_init = (
            tuple(self.features(each, data) for data in split) for each in (state, initial)
        )
        return self.accuracies(*trained) | {
            "baselines": {
                "raw_pixels": self.accuracies(*self.raw_pixels()),
                "random_init": self.accuracies(*random_init),
            }
        }

    def write_report(
        self, path: Path, state: TrainState, metrics: list[dict[str, Any]], summary: dict[str, Any]
    ) -> None:
        """Writes `report.html`. In a run of several processes all must call it; process 0 writes."""
        config = self._experiment.config
        content = ReportContent(
            title=f"{config.method.name} on {config.data.name}",
            summary=summary,
            config=to_json(config),
            metrics=metrics,
            spectrum=self._spectrum(state),
            views=self._view_grid(),
            neighbours=self._neighbour_grid(state),
            class_names=self._experiment.train_data.class_names,
        )
        if jax.process_index() == 0:
            write_report(path, content)

    def _spectrum(self, state: TrainState) -> np.ndarray:
        batches = self._batches(self._experiment.train_data)
        embeddings: list[np.ndarray] = []
        while sum(map(len, embeddings)) < _SPECTRUM_IMAGES and (batch := next(batches, None)) is not None:
            z, _ = extract_features(self._embed, (state.params, state.batch_stats), [batch])
            embeddings.append(z)
        return np.asarray(spectrum(jnp.concatenate(embeddings)))

    def _view_grid(self) -> ViewGrid:
        experiment = self._experiment
        originals = [experiment.train_data[i] for i in range(min(_PICTURED, len(experiment.train_data)))]
        images = np.stack([example["image"] for example in originals])
        preprocessing = experiment.preprocessing
        views = jax.jit(make_views, static_argnames=("views", "image_size", "mean", "std"))(
            jax.random.key(experiment.config.seed),
            images,
            np.stack([example["aspect_ratio"] for example in originals]),
            views=experiment.views,
            image_size=preprocessing.image_size,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        return ViewGrid(
            images, [np.asarray(denormalise(v, preprocessing.mean, preprocessing.std)) for v in views]
        )

    def _neighbour_grid(self, state: TrainState) -> NeighbourGrid:
        train, test = self._experiment.train_data, self._experiment.test_data
        train_features, train_labels = self.features(state, train)
        test_features, test_labels = self.features(state, test)
        # Spread over the split, which may be sorted by class.
        queries = np.linspace(0, len(test) - 1, min(_PICTURED, len(test))).astype(int)
        near = nearest_neighbours(train_features, test_features[queries], neighbours=5)
        indices = np.asarray(near.indices)
        return NeighbourGrid(
            queries=np.stack([test[int(i)]["image"] for i in queries]),
            neighbours=np.stack([np.stack([train[int(j)]["image"] for j in row]) for row in indices]),
            query_labels=test_labels[queries] if self.is_labelled else None,
            neighbour_labels=train_labels[indices] if self.is_labelled else None,
            similarities=np.asarray(near.similarities),
        )
