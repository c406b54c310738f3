"""The task `finetune`: train a pretrained backbone and a new linear classifier with all labels, or with a few.

Beside it, a second network may be trained from random initialization on the same batches: what is pretraining worth?
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vicreg_jax.config import FINETUNE, Table
from vicreg_jax.data import Batch
from vicreg_jax.evaluation import top_k_accuracies
from vicreg_jax.models import STOCHASTIC_DEPTH
from vicreg_jax.tasks.supervised.build import SupervisedExperiment, build
from vicreg_jax.tasks.supervised.classifier import cross_entropy, init_classifier, logits_of
from vicreg_jax.tasks.supervised.task import Supervised, first_state
from vicreg_jax.tasks.task import HERE, Site
from vicreg_jax.training.state import TrainState, step_key
from vicreg_jax.training.step import Metrics

_SCRATCH = "from_scratch_"  # in front of the parts and metrics of the network from random initialization


class Finetune(Supervised):
    """Fine-tuning. The parts are `backbone` and `head`, and those of the second network, if there is one.

    The loss is the sum over both networks. They share no parameter, so each has its own gradient.
    """

    nonfinite_remedy = "Lower config.optim.base_lr or config.finetune.head_lr, in a new --workdir."

    def __init__(self, experiment: SupervisedExperiment):
        super().__init__(experiment)
        finetune = experiment.config.finetune
        self._networks = [""]
        self._rates = {"backbone": experiment.config.optim.base_lr, "head": finetune.head_lr}
        if (rate := finetune.from_scratch_lr) is not None:
            self._networks.append(_SCRATCH)
            self._rates |= {f"{_SCRATCH}backbone": rate, f"{_SCRATCH}head": rate}
            self.terms = (f"{_SCRATCH}loss",)

    @classmethod
    def table(cls, method: str) -> Table:
        """See `Task`."""
        return FINETUNE

    @classmethod
    def from_config(cls, config: ConfigDict, site: Site = HERE) -> "Finetune":
        """See `Task`."""
        return cls(build(config, FINETUNE, site))

    def init(self, key: jax.Array) -> TrainState:
        """See `Task`."""
        experiment = self.experiment
        init_key, train_key = jax.random.split(key)
        params, batch_stats = {}, {}
        for network, network_key in zip(self._networks, jax.random.split(init_key, 2), strict=False):
            backbone_key, head_key = jax.random.split(network_key)
            backbone, head = f"{network}backbone", f"{network}head"
            params[backbone], batch_stats[backbone] = self.init_backbone(backbone_key)
            params[head] = init_classifier(head_key, experiment.backbone.feature_dim, experiment.num_classes)
        return first_state(train_key, params, batch_stats, experiment.optimizer.init(params))

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """See `Task`."""
        experiment = self.experiment
        key = step_key(state.key, state.step)
        images = self.random_view(key, batch)
        depth_key = jax.random.fold_in(key, 1)  # the view has number 0

        def loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            metrics: Metrics = {}
            batch_stats = {}
            for network in self._networks:
                part = f"{network}backbone"
                features, updated = experiment.backbone.apply(
                    {"params": params[part], "batch_stats": state.batch_stats[part]},
                    images,
                    train=True,  # BatchNorm too, as in the official code
                    mutable=["batch_stats"],
                    rngs={STOCHASTIC_DEPTH: depth_key},
                )
                batch_stats[part] = updated.get("batch_stats", {})
                logits = logits_of(params[f"{network}head"], features)
                metrics[f"{network}loss"], metrics[f"{network}train_accuracy"] = cross_entropy(logits, batch["label"])
            return jnp.sum(jnp.stack([metrics[f"{network}loss"] for network in self._networks])), (metrics, batch_stats)

        gradient, (metrics, batch_stats) = jax.grad(jax.named_scope("loss")(loss), has_aux=True)(state.params)
        with jax.named_scope("optimizer"):
            updates, opt_state = experiment.optimizer.update(gradient, state.opt_state, state.params)
            updates = {
                part: jax.tree.map(lambda update, rate=rate: rate * update, updates[part])
                for part, rate in self._rates.items()
            }
            params = optax.apply_updates(state.params, updates)
        schedule = jnp.asarray(experiment.schedule(state.step), jnp.float32)
        metrics |= {
            "learning_rate": self._rates["backbone"] * schedule,
            "head_learning_rate": self._rates["head"] * schedule,
            "gradient_norm": optax.tree.norm(gradient),
            "update_norm": optax.tree.norm(optax.tree.sub(params, state.params)),
        }
        changes = {"params": params, "batch_stats": batch_stats, "opt_state": opt_state}
        return dataclasses.replace(state, step=state.step + 1, **changes), metrics

    def logits(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """See `Supervised`: one classifier for each network."""

        def of(network: str) -> jax.Array:
            part = f"{network}backbone"
            variables = {"params": params[part], "batch_stats": batch_stats[part]}
            features: Any = self.experiment.backbone.apply(variables, images, train=False)
            return logits_of(params[f"{network}head"], features)

        return jnp.stack([of(network) for network in self._networks])

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """See `Task`: the accuracy on the test split."""
        ranks = self.ranks(state, self.experiment.test_data)
        return {f"{network}accuracy": float((ranks[:, i] < 1).mean()) for i, network in enumerate(self._networks)}

    def results(self, state: TrainState) -> dict[str, Any]:
        """See `Supervised`."""
        ranks = self.ranks(state, self.experiment.test_data)
        accuracies, *scratch = (top_k_accuracies(column, self.experiment.num_classes) for column in ranks.T)
        return accuracies | {"baselines": dict(zip(("from_scratch",), scratch, strict=False))}
