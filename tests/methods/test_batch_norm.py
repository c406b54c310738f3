"""BatchNorm in each method against float64 NumPy: which rows share statistics, and the running statistics."""

import itertools

import jax
import numpy as np
import pytest

from vicreg_jax.methods import METHODS, MoCo
from vicreg_jax.models import Head

BATCH = 6
BACKBONE, HEAD, PREDICTOR = Head((5, 4)), Head((6, 3)), Head((4, 3))


class Reference:
    """The parts in float64; each call updates the running statistics `stats`."""

    def __init__(self, params, stats):
        self.params, self.stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, stats))

    def __call__(self, part, x, train=True):
        weights, running = self.params[part], self.stats[part]["batch_norm_0"]
        x = x @ weights["dense_0"]["kernel"] + weights["dense_0"]["bias"]
        mean, var = running["mean"], running["var"]
        if train:
            mean, var = x.mean(0), x.var(0)
            self.stats[part]["batch_norm_0"] = {
                "mean": 0.9 * running["mean"] + 0.1 * mean,
                "var": 0.9 * running["var"] + 0.1 * var,
            }
        scale, bias = weights["batch_norm_0"]["scale"], weights["batch_norm_0"]["bias"]
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0) @ weights["dense_1"]["kernel"]


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def views_of(seed=0, batch=BATCH):
    return np.random.default_rng(seed).normal(0.5, 1.0, size=(2, batch, 7)).astype(np.float32)


def close(actual, expected, **tolerances):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5, **tolerances), actual, expected)


def random_variables(tree, seed=1):
    """Random variables without zero biases and means or unit scales and variances, so that each one matters."""
    random = np.random.default_rng(seed)

    def leaf(path, array):
        positive = path[-1].key in ("scale", "var")
        return np.float32(random.uniform(0.5, 1.5, array.shape) if positive else random.normal(0, 0.7, array.shape))

    return jax.tree_util.tree_map_with_path(leaf, tree)


@pytest.mark.parametrize(
    ("name", "fields", "network_sees", "target_sees"),
    [
        ("vicreg", {"predictor": PREDICTOR}, ["a", "b"], []),
        ("simclr", {}, ["ab"], []),
        ("moco", {"queue_size": 12, "symmetric": True}, ["a", "b"], ["b", "a"]),
        ("byol", {"predictor": PREDICTOR}, ["a", "b"], ["a", "b"]),
        pytest.param("barlow_twins", {}, ["a", "b"], [], marks=pytest.mark.slow),
        pytest.param("debiased", {}, ["a", "b"], [], marks=pytest.mark.slow),
        pytest.param("moco", {"queue_size": 12}, ["a"], ["b"], marks=pytest.mark.slow),
        pytest.param("byol", {"stop_gradient": False}, ["a", "b"], [], marks=pytest.mark.slow),
        pytest.param("simsiam", {"predictor": PREDICTOR}, ["a", "b"], [], marks=pytest.mark.slow),
        pytest.param("triplet", {}, ["a", "b"], [], marks=pytest.mark.slow),
        pytest.param("lejepa", {}, ["a", "b"], [], marks=pytest.mark.slow),
        pytest.param("visreg", {}, ["a", "b"], [], marks=pytest.mark.slow),
    ],
)
def test_statistics_are_per_view_or_over_both(name, fields, network_sees, target_sees):
    """`network_sees` has the views of each forward pass, in order."""
    method = METHODS[name](BACKBONE, HEAD, **fields)
    views = dict(zip("ab", views_of(), strict=True))
    shapes = jax.eval_shape(method.init, jax.random.key(0), tuple(views.values()))
    params, stats, extra_state = random_variables(shapes)
    if name == "moco":
        extra_state["queue_position"] = np.int32(0)
    _, outputs = jax.jit(method.loss)(params, stats, extra_state, tuple(views.values()), jax.random.key(0))

    network = Reference(params, stats)
    features = [network("backbone", np.concatenate([views[view] for view in seen])) for seen in network_sees]
    z = [network("head", of_views) for of_views in features]
    if method.predictor is not None:
        for of_views in z:
            network("predictor", of_views)
    compared = {name: lambda z: z for name in ("vicreg", "lejepa", "visreg")}
    compared["barlow_twins"] = lambda z: (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    close(outputs.features, features[0][:BATCH])
    close(outputs.embeddings, compared.get(name, unit)(z[0])[:BATCH])
    close(outputs.batch_stats, network.stats)

    assert ("target_batch_stats" in extra_state) == (name in ("byol", "moco"))
    if "target_batch_stats" in extra_state:
        target = Reference(extra_state["target_params"], extra_state["target_batch_stats"])
        for view in target_sees:
            target("head", target("backbone", views[view]))
        close(outputs.extra_state["target_batch_stats"], target.stats)


def test_embed_uses_the_running_statistics_of_the_first_branch():
    method = METHODS["vicreg"](BACKBONE, HEAD, second_backbone=Head((5, 4)), second_head=Head((6, 3)))
    views = views_of()
    params, stats, _ = random_variables(jax.eval_shape(method.init, jax.random.key(0), tuple(views)))
    reference = Reference(params, stats)
    expected = reference("head", reference("backbone", views[0], train=False), train=False)
    close(method.embed(params, stats, views[0])[1], expected)
    close(method.embed(params, stats, views[0, :1])[1], expected[:1])


# MoCo's groups, with a head that is a matrix and a BatchNorm without scale and shift.
GROUPED = {"backbone": Head((4,)), "head": Head((3,), output_norm="plain"), "temperature": 1.0}


def normalized(z, groups):
    """Standardize each group of rows separately, then scale every row to unit length."""
    out = np.empty_like(z)
    for group in groups:
        out[group] = (z[group] - z[group].mean(0)) / np.sqrt(z[group].var(0) + 1e-5)
    return unit(out)


def grouped_step(batch_norm_groups, views):
    """A function from the step's key to its outputs; and the embeddings of both views before BatchNorm."""
    method = MoCo(**GROUPED, queue_size=views.shape[1], batch_norm_groups=batch_norm_groups)
    params, stats, extra_state = jax.jit(method.init)(jax.random.key(0), tuple(views))
    loss = jax.jit(method.loss)
    kernels = [np.float64(params[part]["dense_0"]["kernel"]) for part in ("backbone", "head")]
    return lambda key: loss(params, stats, extra_state, tuple(views), key)[1], views @ kernels[0] @ kernels[1]


def test_each_group_of_queries_has_separate_statistics():
    step, (z, _) = grouped_step(3, views_of())
    outputs = step(jax.random.key(0))
    groups = [[0, 1], [2, 3], [4, 5]]
    close(outputs.embeddings, normalized(z, groups))
    running = outputs.batch_stats["head"]["batch_norm_0"]
    close(running["mean"], 0.1 * np.mean([z[group].mean(0) for group in groups], axis=0))
    close(running["var"], 0.9 + 0.1 * np.mean([z[group].var(0) for group in groups], axis=0))


def test_keys_are_shuffled_over_the_groups_and_come_back_in_order():
    """A batch of four has three partitions into two groups of two: all of them occur, and nothing else."""
    step, (_, z) = grouped_step(2, views_of(batch=4))
    partitions = [[[0, other], [row for row in (1, 2, 3) if row != other]] for other in (1, 2, 3)]
    expected = [normalized(z, groups) for groups in partitions]
    assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.combinations(expected, 2))
    found = []
    for seed in range(12):
        keys = step(jax.random.key(seed)).extra_state["queue"]
        found.append([index for index in range(3) if np.allclose(keys, expected[index], atol=1e-3)])
    assert all(len(matching) == 1 for matching in found)
    assert {matching[0] for matching in found} == {0, 1, 2}


def test_one_group_is_the_whole_batch():
    step, (z_a, z_b) = grouped_step(1, views_of())
    outputs = step(jax.random.key(0))
    close(outputs.embeddings, normalized(z_a, [range(BATCH)]))
    close(outputs.extra_state["queue"], normalized(z_b, [range(BATCH)]))
