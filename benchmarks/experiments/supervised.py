"""A supervised baseline: a backbone trained with labels on the data and views of a config.

The loss is the cross-entropy of one random view, without a projector. The evaluation is the launcher's (kNN, linear and
few-label accuracy of the features), plus the accuracy of the classifier on the central views of the test split.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from vicreg_jax.augment import central_view, make_view
from vicreg_jax.data import evaluation_batches, is_resident, train_batches
from vicreg_jax.evaluation import EvaluationSettings, LabeledFeatures, evaluate_features, extract_features
from vicreg_jax.tasks.pretrain.build import build
from vicreg_jax.training.mesh import batch_sharding


class _Classifier(nn.Module):
    backbone: nn.Module
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(self.classes, name="classifier")(self.backbone(images, train=train))


def train_supervised(config: ConfigDict) -> dict[str, Any]:
    """Trains the config's backbone with labels and SGD for its epochs; returns accuracies and seconds."""
    start = time.perf_counter()
    experiment = build(config)
    plan, preprocessing, data = experiment.plan, experiment.preprocessing, experiment.train_data
    assert data.num_classes is not None
    model = _Classifier(experiment.method.backbone, data.num_classes)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, plan.total_steps // 20, plan.total_steps)
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(schedule, momentum=0.9, nesterov=True))
    variables = jax.jit(model.init, static_argnames="train")(
        jax.random.key(config.seed), jnp.zeros((1, *experiment.image_shape)), train=False
    )
    state = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))

    @jax.jit
    def train_step(state: Any, batch: dict[str, jax.Array], step: jax.Array) -> Any:
        params, batch_stats, opt_state = state
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        view = make_view(key, batch["image"], batch["aspect_ratio"], experiment.views[0], preprocessing)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": batch_stats}, view, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])), updated

        gradient, updated = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), updated["batch_stats"], opt_state

    sharding = batch_sharding(experiment.mesh)
    batches = train_batches(
        data,
        batch_size=plan.batch_size,
        seed=config.seed,
        start_step=0,
        sharding=sharding,
        resident=is_resident(data, config.data.placement),
        workers=config.data.workers,
    )
    for step in range(plan.total_steps):
        state = train_step(state, next(batches), np.int32(step))
    params, batch_stats, _ = state

    def outputs(which: str, dataset: Any) -> LabeledFeatures:
        def apply(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
            images = central_view(batch["image"], batch["aspect_ratio"], preprocessing)
            if which == "logits":
                return model.apply(variables, images, train=False)
            backbone_variables = {name: collection["backbone"] for name, collection in variables.items()}
            return experiment.method.backbone.apply(backbone_variables, images, train=False)

        batches = evaluation_batches(
            dataset,
            batch_size=config.evaluation.batch_size,
            sharding=sharding,
            resident=is_resident(dataset, config.data.placement),
            workers=config.data.workers,
        )
        return extract_features(jax.jit(apply), {"params": params, "batch_stats": batch_stats}, batches)

    logits, labels = outputs("logits", experiment.test_data)
    accuracies = evaluate_features(
        outputs("features", data),
        outputs("features", experiment.test_data),
        EvaluationSettings(
            config.evaluation.knn_neighbors,
            config.evaluation.knn_temperature,
            config.evaluation.labels_per_class,
            config.evaluation.draws,
        ),
        num_classes=data.num_classes,
        seed=config.seed,
        sharding=sharding,
    )
    accuracy = float(np.mean(np.argmax(logits, axis=1) == labels))
    return accuracies | {"classifier_accuracy": accuracy, "seconds": round(time.perf_counter() - start, 2)}
