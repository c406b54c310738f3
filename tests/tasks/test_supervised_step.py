"""One step of the tasks `finetune` and `linear` against references in NumPy and textbook JAX, with a small network."""

import dataclasses
from itertools import islice

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune, linear
from vicreg_jax.config import FINETUNE, LINEAR
from vicreg_jax.models.batch_norm import BatchNorm
from vicreg_jax.tasks.supervised.build import build
from vicreg_jax.tasks.supervised.classifier import cross_entropy
from vicreg_jax.tasks.supervised.finetune import Finetune
from vicreg_jax.tasks.supervised.linear import Linear
from vicreg_jax.tasks.task import Site
from vicreg_jax.training.state import run_key, step_key

RATES = (0.1, 1.0, 3.0)
STEPS = 4


class Small(nn.Module):
    """A backbone that compiles fast."""

    feature_dim: int = 6

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(self.feature_dim)(images.reshape(len(images), -1))
        return nn.relu(BatchNorm(use_running_average=not train)(x))


def make_task(task_type, config, table, **changes):
    config.update_from_flattened_dict({"train.batch_size": 32, **changes})
    experiment = build(config, table, Site(devices=jax.devices()[:1]))
    return task_type(dataclasses.replace(experiment, backbone=Small()))


def small_task(task_type, **changes):
    if task_type is Linear:
        return make_task(Linear, linear.get_config("digits"), LINEAR, **changes)
    return make_task(Finetune, finetune.get_config("digits"), FINETUNE, **{"finetune.labels": "all"} | changes)


def train(task, steps):
    """The states of the first steps, the initial one first, with their batches and metrics."""
    state = jax.jit(task.init)(run_key(0))
    step = jax.jit(task.step)
    states, batches, metrics = [jax.device_get(state)], list(islice(task.batches(0), steps)), []
    for batch in batches:
        state, found = step(state, batch)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(found))
    return states, jax.device_get(batches), metrics


@pytest.fixture(scope="module")
def ladder():
    task = small_task(Linear, **{"linear.learning_rates": RATES, "optim.weight_decay": 0.01})
    return task, *train(task, STEPS)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_every_classifier_of_the_ladder_is_trained_as_if_alone(ladder):
    """SGD with momentum and weight decay, in float64."""
    task, states, batches, metrics = ladder
    initial, trained = states[0], states[-1]
    backbone = {"params": initial.params["backbone"], "batch_stats": initial.batch_stats["backbone"]}
    for index, rate in enumerate(RATES):
        head = {name: array[index].astype(np.float64) for name, array in initial.params["heads"]["encoder"].items()}
        momentum = dict.fromkeys(head, 0.0)
        for step, batch in enumerate(batches):
            images = task.random_view(step_key(states[step].key, step), batch)
            features = np.asarray(Small().apply(backbone, images, train=False), np.float64)
            probabilities = softmax(features @ head["kernel"] + head["bias"])
            loss = -np.mean(np.log(probabilities[np.arange(32), batch["label"]]))
            assert metrics[step][f"loss/{rate:g}"] == pytest.approx(loss, rel=1e-5)
            error = (probabilities - np.eye(10)[batch["label"]]) / 32
            gradient = {"kernel": features.T @ error, "bias": error.sum(axis=0)}
            peak = rate * 32 / 256
            now = peak * (1 + np.cos(np.pi * step / task.plan.total_steps)) / 2
            for name in head:
                momentum[name] = 0.9 * momentum[name] + gradient[name] + 0.01 * head[name]
                head[name] = head[name] - now * momentum[name]
        for name, array in head.items():
            np.testing.assert_allclose(trained.params["heads"]["encoder"][name][index], array, rtol=1e-4, atol=1e-6)


def test_a_frozen_backbone_stays_as_it_is(ladder):
    _, (initial, *_, trained), _, _ = ladder
    for part in ("backbone", "random_backbone"):
        jax.tree.map(np.testing.assert_array_equal, initial.params[part], trained.params[part])
    jax.tree.map(np.testing.assert_array_equal, initial.batch_stats, trained.batch_stats)
    assert trained.step == STEPS
    assert set(trained.params["heads"]) == {"encoder", "random_init", "raw_pixels"}
    for head in trained.params["heads"].values():
        kernels = head["kernel"]
        assert len(kernels) == len(RATES)
        assert not np.array_equal(kernels[0], kernels[1])


def test_the_chosen_learning_rate_is_the_best_on_held_out_images(ladder):
    task, states, _, _ = ladder
    results = task.results(states[-1])
    rows = {"encoder": results, **results["baselines"]}
    assert set(rows) == {"encoder", "random_init", "raw_pixels"}
    for row in rows.values():
        best = int(np.argmax(row["validation_accuracies"]))
        assert row["learning_rate"] == RATES[best]
        assert 0 <= row["accuracy"] <= row["top5_accuracy"] <= 1
    assert results["validation_labels"] == round(0.1 * 1437)
    # The test accuracy is that of the chosen classifier.
    best = int(np.argmax(results["validation_accuracies"]))
    ranks = task.ranks(states[-1], task.experiment.test_data)
    assert results["accuracy"] == np.mean(ranks[:, best] == 0)


@pytest.fixture(scope="module")
def tuned():
    rates = {"optim.base_lr": 0.5, "finetune.head_lr": 2.0, "finetune.from_scratch_lr": 0.25}
    task = small_task(Finetune, **rates)
    return task, *train(task, 1)


def test_each_part_has_its_own_learning_rate(tuned):
    """At the first step SGD moves by minus the peak rate times the gradient."""
    task, (initial, after), (batch,), (metrics,) = tuned
    images = task.random_view(step_key(initial.key, 0), batch)

    def loss(params, prefix):
        backbone, head = params[f"{prefix}backbone"], params[f"{prefix}head"]
        variables = {"params": backbone, "batch_stats": initial.batch_stats[f"{prefix}backbone"]}
        features, updated = Small().apply(variables, images, train=True, mutable=["batch_stats"])
        log_probabilities = jax.nn.log_softmax(features @ head["kernel"] + head["bias"])
        return -jnp.mean(log_probabilities[jnp.arange(32), batch["label"]]), updated["batch_stats"]

    rates = {"": (0.5, 2.0), "from_scratch_": (0.25, 0.25)}
    for prefix, (backbone_rate, head_rate) in rates.items():
        (value, batch_stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(
            initial.params, prefix
        )
        assert metrics[f"{prefix}loss"] == pytest.approx(float(value), rel=1e-5)
        for part, rate in ((f"{prefix}backbone", backbone_rate), (f"{prefix}head", head_rate)):
            expected = jax.tree.map(lambda p, g, rate=rate: p - rate * 32 / 256 * g, initial.params, gradient)[part]
            jax.tree.map(
                lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6),
                after.params[part],
                expected,
            )
        # BatchNorm is in train mode.
        jax.tree.map(
            lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6),
            after.batch_stats[f"{prefix}backbone"],
            batch_stats,
        )
    assert metrics["learning_rate"] == pytest.approx(0.5 * 32 / 256)
    assert metrics["head_learning_rate"] == pytest.approx(2.0 * 32 / 256)
    assert metrics["gradient_norm"] > 0


def test_rows_without_a_label_do_not_count():
    logits = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    labels = np.array([0, -1, 3, -1, 2, 1], np.int32)
    loss, accuracy = map(float, jax.jit(cross_entropy)(logits, labels))
    kept = labels >= 0
    assert loss == pytest.approx(-np.mean(np.log(softmax(logits[kept])[np.arange(4), labels[kept]])), rel=1e-5)
    assert accuracy == np.mean(np.argmax(logits[kept], axis=1) == labels[kept])
