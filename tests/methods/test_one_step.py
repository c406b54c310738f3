"""A step of each method against its formulas in float64 NumPy: the loss, its terms and the gradient.

The network is the identity, so that the gradients with respect to views and embeddings are equal; target and predictor
are other matrices. NumPy's gradient is by central differences, with constants for everything under a stop-gradient.
"""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import ndtri

from vicreg_jax.losses.slices import random_directions
from vicreg_jax.methods import METHODS

BATCH, DIM = 6, 4
STEP_KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("float64")


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def off_diagonal(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)]


def variance_of(z, target_std, epsilon):
    return np.mean(np.maximum(0, target_std - np.sqrt(z.var(axis=0, ddof=1) + epsilon)))


def covariance_of(z):
    return np.sum(off_diagonal(np.cov(z.T)) ** 2) / z.shape[1]


def unbiased_covariance_of(z):
    """The mean, over all choices of four rows, of a product whose expectation is the squared covariance."""
    rows = [list(four) for four in itertools.permutations(range(len(z)), 4)]
    first, second, third, fourth = np.moveaxis(z[rows], 1, 0)
    left, right = first - second, third - fourth
    squares = np.einsum("ni,nj,ni,nj->ij", left, left, right, right) / (4 * len(rows))
    return np.sum(off_diagonal(squares)) / z.shape[1]


def spread(z_a, z_b, target_std, epsilon, covariance=covariance_of):
    variance = (variance_of(z_a, target_std, epsilon) + variance_of(z_b, target_std, epsilon)) / 2
    return {"variance": variance, "covariance": covariance(z_a) + covariance(z_b)}


def scaled(z, to_sphere):
    """Rows of length sqrt(dim), if `to_sphere`."""
    return [np.sqrt(view.shape[1]) * unit(view) if to_sphere else view for view in z]


def cross_entropy(logits, labels):
    """Summed over the rows."""
    return np.sum(np.log(np.sum(np.exp(logits), axis=1)) - logits[np.arange(len(logits)), labels])


# Arguments of every reference: the embeddings, the predictions, constant targets (of the target network, or copies of
# the embeddings) and the queue; then the method's fields, with the official code's defaults. It returns the loss and
# its terms.


def vicreg(
    z, p, targets, queue, invariance_weight=25, variance_weight=25, covariance_weight=1, target_std=1, epsilon=1e-4,
    unbiased_covariance=False,
):  # fmt: skip
    terms = {"invariance": (np.mean((p[0] - z[1]) ** 2) + np.mean((p[1] - z[0]) ** 2)) / 2}
    terms |= spread(*z, target_std, epsilon, unbiased_covariance_of if unbiased_covariance else covariance_of)
    weights = {"invariance": invariance_weight, "variance": variance_weight, "covariance": covariance_weight}
    return sum(weights[name] * term for name, term in terms.items()), terms


def barlow_twins(z, p, targets, queue, redundancy_weight=0.0051, epsilon=1e-5, loss_scale=1):
    x_a, x_b = ((view - view.mean(0)) / np.sqrt(view.var(0) + epsilon) for view in z)
    correlation = x_a.T @ x_b / len(x_a)
    terms = {
        "on_diagonal": np.sum((np.diag(correlation) - 1) ** 2),
        "off_diagonal": np.sum(off_diagonal(correlation) ** 2),
    }
    return loss_scale * (terms["on_diagonal"] + redundancy_weight * terms["off_diagonal"]), terms


def simclr(z, p, targets, queue, temperature=0.1):
    both = unit(np.concatenate(z))
    logits = both @ both.T / temperature
    np.fill_diagonal(logits, -np.inf)
    n = len(z[0])
    positives = np.concatenate([np.arange(n) + n, np.arange(n)])
    return cross_entropy(logits, positives) / n, {}


def debiased(z, p, targets, queue, temperature=0.5, positive_prior=0.1):
    n = len(z[0])
    both = unit(np.concatenate(z))
    exponentials = np.exp(both @ both.T / temperature)
    row = np.arange(2 * n)
    positive = exponentials[row, (row + n) % (2 * n)]
    negatives = exponentials.sum(axis=1) - np.diag(exponentials) - positive
    count = 2 * n - 2
    left = np.maximum(
        (negatives - positive_prior * count * positive) / (1 - positive_prior), count * np.exp(-1 / temperature)
    )
    return np.mean(np.log((positive + left) / positive)), {}


def moco(z, p, targets, queue, temperature=0.2, symmetric=False, **fields):
    loss = 0
    for query, key in ((z[0], targets[1]), (z[1], targets[0]))[: 2 if symmetric else 1]:
        query, key = unit(query), unit(key)
        logits = np.concatenate([np.sum(query * key, axis=1, keepdims=True), query @ queue.T], axis=1) / temperature
        loss += cross_entropy(logits, 0) / len(query)
    return loss, {}


def byol(
    z, p, targets, queue, variance_weight=0, covariance_weight=0, target_std=1, epsilon=1e-4, stop_gradient=True,
    regularize_directions=False,
):  # fmt: skip
    targets = targets if stop_gradient else z
    cosine_sum = np.sum(unit(p[0]) * unit(targets[1]) + unit(p[1]) * unit(targets[0]), axis=1)
    terms = {"invariance": np.mean(4 - 2 * cosine_sum)} | spread(*scaled(z, regularize_directions), target_std, epsilon)
    return terms["invariance"] + variance_weight * terms["variance"] + covariance_weight * terms["covariance"], terms


def simsiam(
    z, p, targets, queue, variance_weight=0, covariance_weight=0, target_std=1, epsilon=1e-4, stop_gradient=True,
    regularize_directions=False,
):  # fmt: skip
    projections = targets if stop_gradient else z
    cosine_sum = np.sum(unit(p[0]) * unit(projections[1]) + unit(p[1]) * unit(projections[0]), axis=1)
    terms = {"invariance": -0.5 * np.mean(cosine_sum)} | spread(*scaled(z, regularize_directions), target_std, epsilon)
    return terms["invariance"] + variance_weight * terms["variance"] + covariance_weight * terms["covariance"], terms


def triplet(z, p, targets, queue, margin=1, negatives=1):
    anchor, positive = (unit(view) for view in z)
    losses = []
    for i in range(len(anchor)):
        for step in range(1, negatives + 1):
            near, far = positive[i], positive[(i + step) % len(anchor)]
            losses.append(max(0, np.sum((anchor[i] - near) ** 2) - np.sum((anchor[i] - far) ** 2) + margin))
    return np.mean(losses), {}


def invariance_of_global(z):
    return np.mean((z - np.mean(z, axis=0)) ** 2)


def projected(views, slices):
    """The views in the directions of the step."""
    directions = random_directions(jax.random.split(STEP_KEY)[1], slices, views[0])
    return [view @ np.asarray(directions).T for view in views]


def lejepa(z, p, targets, queue, sigreg_weight=0.05, slices=1024, knots=17, t_max=3.0):
    t = np.linspace(0, t_max, knots)
    normal = np.exp(-(t**2) / 2)

    def statistic(x):
        cosine, sine = np.mean(np.cos(x[..., None] * t), axis=0), np.mean(np.sin(x[..., None] * t), axis=0)
        return len(x) * 2 * np.mean(np.trapezoid(((cosine - normal) ** 2 + sine**2) * normal, t))

    terms = {"invariance": invariance_of_global(z), "sigreg": np.mean([statistic(x) for x in projected(z, slices)])}
    return (1 - sigreg_weight) * terms["invariance"] + sigreg_weight * terms["sigreg"], terms


def visreg(z, p, targets, queue, visreg_weight=0.9, slices=4096):
    terms = {"invariance": invariance_of_global(z)}
    terms["center"] = np.mean(np.mean(z, axis=1) ** 2)
    terms["scale"] = np.mean((np.std(z, axis=1) + 1e-6 - 1) ** 2)
    standardized = (z - np.mean(z, axis=1, keepdims=True)) / (np.std(targets, axis=1, keepdims=True) + 1e-6)
    quantiles = ndtri(np.arange(1, len(z[0]) + 1) / (len(z[0]) + 1))[:, None]
    terms["shape"] = np.mean([np.mean((np.sort(x, axis=0) - quantiles) ** 2) for x in projected(standardized, slices)])
    regularization = terms["center"] + terms["scale"] + terms["shape"]
    return (1 - visreg_weight) * terms["invariance"] + visreg_weight * regularization, terms


def statistics_before():
    """CorInfoMax's statistics of the steps before."""
    random = np.random.default_rng(3)
    square_roots = random.normal(size=(2, DIM, DIM))
    return random.normal(0, 0.3, size=(2, DIM)), [root @ root.T / DIM + 0.1 * np.eye(DIM) for root in square_roots]


def corinfomax(z, p, targets, queue, invariance_weight=250, decay=0.01, epsilon=1e-8):
    log_determinant, unit_views = 0, [unit(view) for view in z]
    for view, mean, covariance in zip(unit_views, *statistics_before(), strict=True):
        x = view - (decay * mean + (1 - decay) * view.mean(axis=0))
        covariance = decay * covariance + (1 - decay) * x.T @ x / len(x)
        log_determinant += np.linalg.slogdet(covariance + epsilon * np.eye(DIM))[1] / DIM
    terms = {"invariance": np.mean((unit_views[0] - unit_views[1]) ** 2), "log_determinant": log_determinant}
    return invariance_weight * terms["invariance"] - log_determinant, terms


REFERENCES = {
    reference.__name__: reference
    for reference in (
        *(vicreg, barlow_twins, simclr, debiased, moco, byol, simsiam, triplet),
        *(lejepa, visreg, corinfomax),
    )
}

TABLE_4 = {"variance_weight": 1.0, "covariance_weight": 0.01}
OTHERS = {"variance_weight": 3.0, "covariance_weight": 0.7, "target_std": 1.3, "epsilon": 0.1}
CASES = [
    ("vicreg", True, {"invariance_weight": 2.0, **OTHERS}),
    ("vicreg", False, {"unbiased_covariance": True}),
    ("barlow_twins", False, {"redundancy_weight": 0.3, "epsilon": 0.1, "loss_scale": 0.025}),
    ("simclr", False, {}),
    ("debiased", False, {"temperature": 0.8, "positive_prior": 0.02}),
    ("moco", False, {"queue_size": 12, "symmetric": True, "temperature": 0.07, "batch_norm_groups": 2}),
    ("byol", True, {}),
    ("simsiam", True, OTHERS | {"regularize_directions": True}),
    ("triplet", False, {"margin": 0.2, "negatives": 3}),
    ("lejepa", False, {"sigreg_weight": 0.3, "slices": 5, "knots": 7, "t_max": 2.0}),
    ("corinfomax", False, {"invariance_weight": 3.0, "decay": 0.2, "epsilon": 0.05}),
]
MORE_CASES = [
    ("visreg", False, {"visreg_weight": 0.3, "slices": 5}),
    ("vicreg", False, {}),
    ("barlow_twins", False, {}),
    ("simclr", False, {"temperature": 0.5}),
    ("debiased", False, {}),
    ("moco", False, {"queue_size": 12}),
    ("byol", False, TABLE_4 | {"regularize_directions": True}),
    ("byol", True, {"stop_gradient": False, **OTHERS}),
    ("simsiam", True, {}),
    ("simsiam", False, {"stop_gradient": False, **TABLE_4}),
    ("simsiam", True, {"stop_gradient": False}),
    ("triplet", False, {}),
    ("lejepa", False, {}),
    ("visreg", False, {}),
    ("corinfomax", False, {}),
]


def slopes(function, arrays, step=1e-5):
    """Central differences of a scalar function with respect to each entry of each array."""
    gradients = [np.zeros_like(array) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            above = function()
            array[index] = value - step
            gradient[index] = (above - function()) / (2 * step)
            array[index] = value
    return gradients


@pytest.mark.parametrize(
    ("name", "has_predictor", "fields"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CASES)]
)
def test_loss_and_gradient_match_the_formulas(linear, name, has_predictor, fields):
    random = np.random.default_rng(0)
    views = random.normal(0.2, 0.7, size=(2, BATCH, DIM))
    predictor, target = np.eye(DIM) + 0.4 * random.normal(size=(2, DIM, DIM))
    identity = {"kernel": np.eye(DIM)}
    params = {"backbone": identity, "head": identity}
    parts = {}
    if has_predictor:
        parts["predictor"], params["predictor"] = linear(DIM), {"kernel": predictor}
    method = METHODS[name](linear(DIM), linear(DIM), **parts, **fields)
    batch_stats = {part: {} for part in params}
    extra_state, targets = {}, views.copy()
    if name in ("byol", "moco"):
        targets = views @ target
        extra_state["target_params"] = {"backbone": {"kernel": target}, "head": identity}
        extra_state["target_batch_stats"] = {"backbone": {}, "head": {}}
    queue = unit(random.normal(size=(fields.get("queue_size", 1), DIM)))
    if name == "moco":
        extra_state |= {"queue": queue, "queue_position": np.int32(0)}
    if name == "corinfomax":
        (mean_a, mean_b), (covariance_a, covariance_b) = statistics_before()
        extra_state = {"mean_a": mean_a, "mean_b": mean_b, "covariance_a": covariance_a, "covariance_b": covariance_b}

    gradients = jax.jit(jax.value_and_grad(method.loss, argnums=(0, 3), has_aux=True))
    (loss, outputs), (by_params, by_views) = gradients(params, batch_stats, extra_state, tuple(views), STEP_KEY)

    def reference():
        predictions = views @ predictor if has_predictor else views
        return REFERENCES[name](views, predictions, targets, queue, **fields)

    expected, terms = reference()
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert outputs.terms.keys() == terms.keys() == set(method.terms)
    for term, value in terms.items():
        np.testing.assert_allclose(outputs.terms[term], value, rtol=1e-11, err_msg=term)

    arrays = [views, predictor] if has_predictor else [views]
    by_embeddings, *by_predictor = slopes(lambda: reference()[0], arrays)
    assert np.abs(by_embeddings).max() > 1e-3
    np.testing.assert_allclose(np.stack(by_views), by_embeddings, rtol=1e-7, atol=1e-8)
    by_kernel = np.einsum("vni,vnj->ij", views, by_embeddings)
    for part in ("backbone", "head"):
        np.testing.assert_allclose(by_params[part]["kernel"], by_kernel, rtol=1e-7, atol=1e-7)
    if has_predictor:
        np.testing.assert_allclose(by_params["predictor"]["kernel"], by_predictor[0], rtol=1e-7, atol=1e-8)


def test_statistics_of_corinfomax_are_those_of_the_formulas(linear):
    views = np.random.default_rng(0).normal(0.2, 0.7, size=(2, BATCH, DIM))
    means, covariances = statistics_before()
    before = dict(zip(("mean_a", "mean_b", "covariance_a", "covariance_b"), (*means, *covariances), strict=True))
    params = {"backbone": {"kernel": np.eye(DIM)}, "head": {"kernel": np.eye(DIM)}}
    method = METHODS["corinfomax"](linear(DIM), linear(DIM), decay=0.2)
    _, outputs = method.loss(params, {"backbone": {}, "head": {}}, before, tuple(views), STEP_KEY)
    for view, mean, covariance, branch in zip(map(unit, views), means, covariances, "ab", strict=True):
        mean = 0.2 * mean + 0.8 * view.mean(axis=0)
        covariance = 0.2 * covariance + 0.8 * (view - mean).T @ (view - mean) / BATCH
        np.testing.assert_allclose(outputs.extra_state[f"mean_{branch}"], mean, rtol=1e-12)
        np.testing.assert_allclose(outputs.extra_state[f"covariance_{branch}"], covariance, rtol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("vicreg", "barlow_twins", "simclr") else pytest.mark.slow)
        for name in METHODS
    ],
)
def test_evenly_spread_embeddings_have_the_methods_scale(linear, name):
    fields = {"target_std": 1.5} if name == "vicreg" else {}
    method = METHODS[name](linear(8), linear(8), **fields)
    std = 1.0 if name in ("lejepa", "visreg") else 1.5
    views = std * np.random.default_rng(0).normal(size=(2, 512, 8))
    variables = method.init(jax.random.key(0), (views[0, :1], views[1, :1]))
    embeddings = jax.jit(lambda *inputs: method.loss(*inputs)[1].embeddings)(
        *variables, tuple(views), jax.random.key(0)
    )
    np.testing.assert_allclose(np.std(embeddings, axis=0).mean(), method.embedding_scale(8), rtol=0.03)
