"""Every public function under JAX's strict modes."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax import augment, evaluation
from vicreg_jax.evaluation import LabeledFeatures
from vicreg_jax.evaluation.logistic_regression import zero_classifier

pytestmark = pytest.mark.usefixtures("strict_modes")

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=(8, 5)).astype(np.float32)
LABELS, TEST_LABELS = np.arange(30, dtype=np.int32) % 3, np.arange(11, dtype=np.int32) % 3
X, TEST_X = (
    RANDOM.normal(size=(len(y), 4)).astype(np.float32) + np.eye(4, dtype=np.float32)[y] for y in (LABELS, TEST_LABELS)
)
TRAIN, TEST = LabeledFeatures(X, LABELS), LabeledFeatures(TEST_X, TEST_LABELS)
BATCH = {
    "image": RANDOM.integers(0, 256, (3, 6, 6, 1), np.uint8),
    "aspect_ratio": np.ones(3, np.float32),
    "label": np.arange(3, dtype=np.int32),
    "mask": np.arange(3) < 2,
}
PIXELS = augment.Preprocessing(4, (0.0,), (1.0,))


def linear_accuracy():
    return evaluation.linear_accuracy(evaluation.fit_linear_probe(X, LABELS, num_classes=3, l2=0.1), *TEST)


def fit_logistic_regression():
    weights, l2 = np.ones(30, np.float32), 0.1
    return evaluation.fit_logistic_regression(X, LABELS, weights, l2, zero_classifier(4, 3))


def extract_bank():
    """And kNN in it."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    bank = evaluation.extract_bank(
        lambda scale, batch: jnp.float32(scale) * X[:3], 2.0, [BATCH, BATCH], images=5, sharding=sharding, max_subset=3
    )
    return evaluation.knn_predict(bank.labeled(), TEST_X, num_classes=3, neighbors=2)


def slow(function):
    return pytest.param(function, marks=pytest.mark.slow)


SHOWN = np.stack([LABELS == 0, LABELS == 1], axis=1).astype(np.int32)

# Names are those of the functions.
CASES = {
    "alpha_req": lambda: evaluation.alpha_req(Z, first=1, last=4),
    "balanced_accuracy": lambda: evaluation.balanced_accuracy(LABELS, LABELS),
    "collapse_warning": lambda: evaluation.collapse_warning(1.0, 3.0, dim=5, batch_size=8),
    "draw_labeled_examples": lambda: evaluation.draw_labeled_examples(LABELS, num_classes=3, labels_per_class=2),
    "effective_rank": lambda: evaluation.effective_rank(Z),
    "embedding_std": lambda: evaluation.embedding_std(Z),
    "evaluate_multi_label": lambda: evaluation.evaluate_multi_label(X, SHOWN, X, SHOWN, costs=(0.1, 1.0)),
    "evaluate_features": slow(lambda: evaluation.evaluate_features(TRAIN, TEST, num_classes=3)),
    "extract_bank": slow(extract_bank),
    "extract_features": lambda: evaluation.extract_features(lambda scale, batch: scale * X[:3], 2.0, [BATCH, BATCH]),
    "few_label_accuracies": slow(lambda: evaluation.few_label_accuracies(TRAIN, TEST, num_classes=3, draws=2)),
    "fit_linear_probe": slow(lambda: evaluation.fit_linear_probe(X, LABELS, num_classes=3)),
    "fit_logistic_regression": slow(fit_logistic_regression),
    "knn_accuracy": slow(lambda: evaluation.knn_accuracy(TRAIN, TEST, num_classes=3)),
    "knn_predict": lambda: evaluation.knn_predict(TRAIN, TEST_X, num_classes=3, neighbors=2, bank_chunk=7),
    "label_ranks": lambda: evaluation.label_ranks(jnp.asarray(Z), jnp.zeros(len(Z), jnp.int32)),
    "lidar": lambda: evaluation.lidar(Z.reshape(4, 2, 5)),
    "linear_accuracy": linear_accuracy,
    "majority_accuracy": lambda: evaluation.majority_accuracy(LABELS, TEST_LABELS),
    "nearest_neighbors": slow(lambda: evaluation.nearest_neighbors(X, TEST_X, neighbors=2, bank_chunk=7)),
    "rank_me": lambda: evaluation.rank_me(Z),
    "raw_pixel_features": slow(
        lambda: evaluation.raw_pixel_features([BATCH], lambda *images: augment.central_view(*images, PIXELS))
    ),
    "spectrum": lambda: evaluation.spectrum(Z),
    "top_k_accuracies": lambda: evaluation.top_k_accuracies(np.array([0, 6, 2]), 7),
}


def test_every_public_function_has_a_case() -> None:
    exported = {name: getattr(evaluation, name) for name in evaluation.__all__}
    assert {name for name, value in exported.items() if not inspect.isclass(value)} == set(CASES)


@pytest.mark.parametrize("function", CASES.values(), ids=CASES)
def test_runs(function) -> None:
    function()


@pytest.mark.parametrize("name", ["effective_rank", "embedding_std", "spectrum"])
@pytest.mark.parametrize("z", [Z, Z[:3].astype(jnp.bfloat16)], ids=["float32", "wide_bfloat16"])
def test_monitors_have_gradients_under_jit(name, z) -> None:
    function = getattr(evaluation, name)
    jax.jit(jax.value_and_grad(lambda z: function(z).sum()))(jnp.asarray(z))


@pytest.mark.slow
def test_traced() -> None:
    weights = np.ones(30, np.float32)
    jax.eval_shape(
        evaluation.fit_logistic_regression, X, LABELS, weights, 0.1, zero_classifier(4, 3), np.eye(4, dtype=np.float32)
    )
    jax.eval_shape(evaluation.nearest_neighbors, X, TEST_X)
    jax.eval_shape(lambda *train: evaluation.knn_predict(train, TEST_X, num_classes=3), *TRAIN)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_of_other_integers_on_a_mesh(dtype) -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    train, test = (LabeledFeatures(features, labels.astype(dtype)) for features, labels in (TRAIN, TEST))
    evaluation.evaluate_features(train, test, num_classes=3, sharding=sharding)
