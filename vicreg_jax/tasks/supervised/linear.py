"""The task `linear`: the official linear protocol, classifiers trained by SGD on the features of a frozen backbone.

One classifier per learning rate is trained at once, on the same views. The one that counts is chosen on held-out
training images, never on the test split.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vicreg_jax.config import LINEAR, Table
from vicreg_jax.data import Batch, Dataset
from vicreg_jax.evaluation import top_k_accuracies
from vicreg_jax.tasks.supervised.build import SupervisedExperiment, build
from vicreg_jax.tasks.supervised.classifier import Classifier, cross_entropy, init_classifier, logits_of
from vicreg_jax.tasks.supervised.task import Supervised, first_state
from vicreg_jax.tasks.task import HERE, Site
from vicreg_jax.training.state import TrainState, step_key
from vicreg_jax.training.step import Metrics

_ENCODER, _RANDOM, _PIXELS = "encoder", "random_init", "raw_pixels"  # what the features are
_MAX_RAW_PIXELS_SIZE = 32  # side: classifiers of more pixels take longer than the network


class Linear(Supervised):
    """Linear evaluation.

    The parts are `backbone`, which stays as it is, with baselines `random_backbone` likewise, and `heads`: by name of
    the features, classifiers with a leading dimension over the learning rates.
    """

    nonfinite_remedy = "Lower config.linear.learning_rates, in a new --workdir."

    def __init__(self, experiment: SupervisedExperiment):
        super().__init__(experiment)
        linear = experiment.config.linear
        self._rates = np.array(linear.learning_rates, np.float32)
        side, _, channels = experiment.image_shape
        self._dims = {_ENCODER: experiment.backbone.feature_dim}
        if linear.baselines:
            self._dims[_RANDOM] = experiment.backbone.feature_dim
            if side <= _MAX_RAW_PIXELS_SIZE:
                self._dims[_PIXELS] = side * side * channels

    @classmethod
    def table(cls, method: str) -> Table:
        """See `Task`."""
        return LINEAR

    @classmethod
    def from_config(cls, config: ConfigDict, site: Site = HERE) -> "Linear":
        """See `Task`."""
        return cls(build(config, LINEAR, site))

    def init(self, key: jax.Array) -> TrainState:
        """See `Task`: the classifiers of all learning rates start alike."""
        experiment, count = self.experiment, len(self._rates)
        init_key, train_key = jax.random.split(key)
        backbone_key, random_key, head_key = jax.random.split(init_key, 3)
        params, batch_stats, heads = {}, {}, {}
        params["backbone"], batch_stats["backbone"] = self.init_backbone(backbone_key)
        if _RANDOM in self._dims:
            params["random_backbone"], batch_stats["random_backbone"] = self.init_backbone(random_key)
        for name, dim in self._dims.items():
            head = init_classifier(head_key, dim, experiment.num_classes)
            heads[name] = jax.tree.map(lambda array: jnp.repeat(array[None], count, axis=0), head)
        opt_state = {name: jax.vmap(experiment.optimizer.init)(head) for name, head in heads.items()}
        return first_state(train_key, params | {"heads": heads}, batch_stats, opt_state)

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """See `Task`."""
        experiment, labels = self.experiment, batch["label"]
        images = self.random_view(step_key(state.key, state.step), batch)
        features = self._features(state.params, state.batch_stats, images)

        def train(head: Classifier, opt_state: Any, rate: jax.Array, features: jax.Array) -> Any:
            def loss_of(head: Classifier) -> tuple[jax.Array, jax.Array]:
                return cross_entropy(logits_of(head, features), labels)

            (loss, accuracy), gradient = jax.value_and_grad(loss_of, has_aux=True)(head)
            updates, opt_state = experiment.optimizer.update(gradient, opt_state, head)
            head = optax.apply_updates(head, jax.tree.map(lambda update: rate * update, updates))
            return head, opt_state, loss, accuracy

        train_all = jax.vmap(train, in_axes=(0, 0, 0, None))
        heads, opt_state, losses, accuracies = {}, {}, {}, {}
        with jax.named_scope("heads"):
            for name in self._dims:
                heads[name], opt_state[name], losses[name], accuracies[name] = train_all(
                    state.params["heads"][name], state.opt_state[name], jnp.asarray(self._rates), features[name]
                )
        best = jnp.nanargmin(losses[_ENCODER])
        metrics = {
            "loss": losses[_ENCODER][best],
            "train_accuracy": accuracies[_ENCODER][best],
            "learning_rate": self._rates[0] * jnp.asarray(experiment.schedule(state.step), jnp.float32),
            **{f"loss/{rate:g}": loss for rate, loss in zip(self._rates, losses[_ENCODER], strict=True)},
        }
        params = {**state.params, "heads": heads}
        return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state), metrics

    def logits(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """See `Supervised`: for each kind of features, one classifier per learning rate."""
        features = self._features(params, batch_stats, images)
        of_rates = jax.vmap(logits_of, in_axes=(0, None))
        return jnp.concatenate([of_rates(params["heads"][name], features[name]) for name in self._dims])

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """See `Task`: the accuracy of the best classifier on the held-out images, if there are some."""
        if (data := self.experiment.validation_data) is None:
            return {}
        return {"validation_accuracy": float(np.max(self._accuracies(state, data)[_ENCODER]))}

    def results(self, state: TrainState) -> dict[str, Any]:
        """See `Supervised`: with the learning rates, each chosen on the held-out images."""
        experiment, held_out = self.experiment, self.experiment.validation_data
        validation = None if held_out is None else self._accuracies(state, held_out)
        ranks = self._by_features(self.ranks(state, experiment.test_data))
        rows = {}
        for name in self._dims:
            chosen = 0 if validation is None else int(np.argmax(validation[name]))
            rows[name] = {
                **top_k_accuracies(ranks[name][:, chosen], experiment.num_classes),
                "learning_rate": experiment.config.linear.learning_rates[chosen],
                "validation_accuracies": None if validation is None else validation[name].tolist(),
            }
        return rows.pop(_ENCODER) | {"baselines": rows, "validation_labels": 0 if held_out is None else len(held_out)}

    def _accuracies(self, state: TrainState, dataset: Dataset) -> dict[str, np.ndarray]:
        """The accuracy for every learning rate, `[rates]`, by features."""
        return self._by_features(np.mean(self.ranks(state, dataset) < 1, axis=0))

    def _by_features(self, columns: np.ndarray) -> dict[str, np.ndarray]:
        """Columns `[..., classifiers]` as `[..., rates]` by features."""
        return dict(zip(self._dims, np.split(columns, len(self._dims), axis=-1), strict=True))

    def _features(self, params: Any, batch_stats: Any, images: jax.Array) -> dict[str, jax.Array]:
        """Features `[batch, dim]` by kind, with BatchNorm's running statistics."""

        def of(part: str) -> jax.Array:
            variables = {"params": params[part], "batch_stats": batch_stats[part]}
            found: Any = self.experiment.backbone.apply(variables, images, train=False)
            return found

        kinds = {_ENCODER: lambda: of("backbone"), _RANDOM: lambda: of("random_backbone")}
        kinds[_PIXELS] = lambda: images.reshape(len(images), -1)
        return {name: kinds[name]() for name in self._dims}
