"""Micro-batches: the step equals that of the whole batch if rows are independent, and needs less memory."""

import math
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from vicreg_jax.losses import in_microbatches, vicreg_loss
from vicreg_jax.methods import METHODS, MoCo, VICReg
from vicreg_jax.models import BasicBlock, Head, ResNet
from vicreg_jax.training.mesh import AXES, batch_sharding, replicated

BATCH, COUNT, INPUTS = 16, 4, 7
BACKBONE, BARE_HEAD, PREDICTOR = (Head(dims, batch_norm=False) for dims in ((6,), (10, 8), (8,)))
NORMALIZING_HEAD = Head((8,), output_norm="scale")


class Convolution(nn.Module):
    """Images to features, without BatchNorm: rows are independent."""

    @nn.compact
    def __call__(self, images, *, train=False):
        return jnp.mean(nn.relu(nn.Conv(6, (3, 3))(images)), axis=(1, 2))


def views_of(*shape):
    return tuple(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))


def step_of(method, views, **options):
    """A jitted function to loss, outputs and gradient, and its arguments; the target differs from the network."""
    params, stats, extra_state = method.init(jax.random.key(0), views)
    if "target_params" in extra_state:
        extra_state["target_params"] = jax.tree.map(lambda leaf: 0.7 * leaf, extra_state["target_params"])
    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True), **options)
    return step, (params, stats, extra_state, views, jax.random.key(1))


def norm(tree):
    return math.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree)))


def assert_same(actual, expected, relative=1e-5):
    """Compare each array, relative to its Euclidean norm."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == e.shape
        assert norm(np.float64(a) - np.float64(e)) <= relative * norm(e), jax.tree_util.keystr(path)


def assert_same_gradient(actual, expected, relative=1e-5):
    """Compare the gradient of each part, relative to its norm: that of a single bias may almost cancel."""
    assert actual.keys() == expected.keys()
    for part, of_part in expected.items():
        assert norm(of_part) > 1e-4
        assert norm(jax.tree.map(np.subtract, actual[part], of_part)) <= relative * norm(of_part), part


MOCO = {"queue_size": 4 * BATCH}
CASES = [
    ("byol", {"predictor": PREDICTOR, "variance_weight": 1.0}),
]
MORE_CASES = [
    ("simclr", {}),
    ("moco", MOCO | {"symmetric": True, "batch_norm_groups": 2}),
    ("vicreg", {}),
    ("vicreg", {"second_backbone": BACKBONE, "second_head": BARE_HEAD}),
    ("vicreg", {"predictor": PREDICTOR}),
    ("barlow_twins", {}),
    ("debiased", {}),
    ("triplet", {}),
    ("lejepa", {"slices": 16}),
    ("visreg", {"slices": 16}),
    ("corinfomax", {}),
    ("moco", MOCO),
    ("byol", {"predictor": PREDICTOR, "stop_gradient": False}),
    ("simsiam", {"predictor": PREDICTOR, "variance_weight": 1.0}),
]


def assert_microbatches_change_nothing(whole, views):
    results = []
    for method in (whole, replace(whole, microbatches=COUNT)):
        step, arguments = step_of(method, views)
        results.append(step(*arguments))
    (expected, expected_gradient), (actual, gradient) = results
    assert_same(actual, expected)  # loss, terms, features, embeddings, statistics and extra state
    assert_same_gradient(gradient, expected_gradient)


@pytest.mark.parametrize(
    ("name", "fields"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CASES)]
)
@pytest.mark.slow
def test_step_equals_that_of_the_whole_batch(name, fields):
    assert_microbatches_change_nothing(METHODS[name](BACKBONE, BARE_HEAD, **fields), views_of(BATCH, INPUTS))


def test_every_method_is_tested():
    assert {name for name, _ in (*CASES, *MORE_CASES)} == METHODS.keys()


@pytest.mark.slow
def test_step_with_convolutions_equals_that_of_the_whole_batch():
    assert_microbatches_change_nothing(VICReg(Convolution(), BARE_HEAD), views_of(BATCH, 8, 8, 1))


def by_hand(part, variables, inputs, count):
    """A loop over the micro-batches (number i has the rows i, i + count, ...), and the mean of their statistics."""
    outputs_of_parts, updates = [], []
    for index in range(count):
        outputs, updated = part.apply(variables, inputs[index::count], train=True, mutable=["batch_stats"])
        outputs_of_parts.append(outputs)
        updates.append(updated["batch_stats"])
    order = np.argsort(np.concatenate([np.arange(len(inputs))[index::count] for index in range(count)]))
    return jnp.concatenate(outputs_of_parts)[order], jax.tree.map(lambda *leaves: sum(leaves) / count, *updates)


def test_each_microbatch_has_separate_statistics():
    """One layer and a BatchNorm against float64 NumPy; micro-batch i has the rows i, i + count, ..."""
    part = Head((3,), output_norm="scale")
    inputs = np.random.default_rng(0).normal(2.0, 3.0, (12, 5)).astype(np.float32)
    variables = jax.jit(part.init)(jax.random.key(0), inputs)

    def apply(variables, inputs):
        return part.apply(variables, inputs, train=True, mutable=["batch_stats"])

    outputs, updated = jax.jit(partial(in_microbatches, apply, count=3, has_aux=True))(variables, inputs)
    z = np.float64(inputs) @ np.float64(variables["params"]["dense_0"]["kernel"])
    expected, means, variances = np.empty_like(z), [], []
    for index in range(3):
        rows = z[index::3]
        expected[index::3] = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
        means.append(rows.mean(0))
        variances.append(rows.var(0))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    running = updated["batch_stats"]["batch_norm_0"]
    np.testing.assert_allclose(running["mean"], 0.1 * np.mean(means, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * np.mean(variances, axis=0), rtol=1e-5)
    of_whole_batch = 0.9 + 0.1 * z.var(0)
    assert np.abs(running["var"] - of_whole_batch).min() > 1e-3


@pytest.mark.slow
def test_step_with_batch_norm_equals_a_loop_over_the_microbatches():
    """One loss over all rows; statistics per micro-batch and view, one after the other."""
    method = VICReg(Head((6,), output_norm="scale"), NORMALIZING_HEAD, microbatches=COUNT)
    step, (params, stats, extra_state, views, key) = step_of(method, views_of(BATCH, INPUTS))
    (loss, outputs), gradient = step(params, stats, extra_state, views, key)

    def expected_loss(params):
        running, z = stats, []
        for view in views:
            output = view
            for name in ("backbone", "head"):
                variables = {"params": params[name], "batch_stats": running[name]}
                output, updated = by_hand(getattr(method, name), variables, output, COUNT)
                running = running | {name: updated}
            z.append(output)
        return vicreg_loss(*z).loss, (z[0], running)

    expected_step = jax.jit(jax.value_and_grad(expected_loss, has_aux=True))
    (expected, (embeddings, running)), expected_gradient = expected_step(params)
    assert_same((loss, outputs.embeddings, outputs.batch_stats), (expected, embeddings, running))
    assert_same_gradient(gradient, expected_gradient)
    whole, _ = step_of(replace(method, microbatches=1), views)
    assert abs(whole(params, stats, extra_state, views, key)[0][0] / loss - 1) > 1e-3


@pytest.mark.slow
def test_microbatches_split_mocos_groups():
    """With standardized groups of two rows, the two embeddings of a group are opposite vectors."""
    batch, groups, count, dim = 8, 2, 2, 12
    method = MoCo(
        Head((dim,)),
        Head((dim,), output_norm="plain"),
        queue_size=batch,
        batch_norm_groups=groups,
        microbatches=count,
    )
    method.check_batch_size(batch)
    views = np.random.default_rng(0).normal(size=(2, batch, 7)).astype(np.float32)
    params, stats, extra_state = jax.jit(method.init)(jax.random.key(0), tuple(views))
    z = views @ (params["backbone"]["dense_0"]["kernel"] @ params["head"]["dense_0"]["kernel"])
    loss = jax.jit(method.loss)

    def partners(z, embeddings):
        signs = np.sign(embeddings)
        found = [
            [
                other
                for other in range(batch)
                if np.array_equal(np.sign(z[row] - z[other]), signs[row]) and np.array_equal(signs[other], -signs[row])
            ]
            for row in range(batch)
        ]
        assert all(len(others) == 1 for others in found)
        return [other for (other,) in found]

    key_partners = set()
    for seed in range(6):
        _, outputs = loss(params, stats, extra_state, tuple(views), jax.random.key(seed))
        # Queries: rows 0 to 3 and 4 to 7 are the groups, and every other row of a group is in the same micro-batch.
        assert partners(z[0], outputs.embeddings) == [2, 3, 0, 1, 6, 7, 4, 5]
        key_partners.add(tuple(partners(z[1], outputs.extra_state["queue"])))
    assert len(key_partners) > 1  # keys are shuffled over groups and micro-batches


@pytest.mark.parametrize(("groups", "fits"), [(4, True), (8, False), (3, False)])
def test_groups_must_divide_a_microbatch(groups, fits):
    method = MoCo(BACKBONE, BARE_HEAD, queue_size=64, batch_norm_groups=groups, microbatches=4)
    if fits:
        method.check_batch_size(16)
    else:
        with pytest.raises(
            ValueError, match=rf"^batch_norm_groups must divide .*micro-batch\) size of 4; got {groups}$"
        ):
            method.check_batch_size(16)


MOVING = r"= (\(?\w+\[.*?) (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)(?:-start)?\("


def largest_array_moved(compiled):
    """Size of the largest array that moves between devices."""
    sizes = [
        math.prod(int(side) for side in shape.split(",") if side)
        for shapes, _ in re.findall(MOVING, compiled.as_text())
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]
    return max(sizes)


DEVICES_BACKBONES = {
    "dense": (Head((9, 6)), (64, 768)),
    "resnet": (ResNet(BasicBlock, (1,), filters=4, stem="small"), (64, 16, 16, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vicreg", "dense"),
        pytest.param("simclr", "dense", marks=pytest.mark.slow),
        pytest.param("moco", "resnet", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_make_the_same_step_and_keep_their_images(name, kind):
    fields = {"queue_size": 128} if name == "moco" else {}
    backbone, shape = DEVICES_BACKBONES[kind]
    method = METHODS[name](backbone, NORMALIZING_HEAD, microbatches=COUNT, **fields)
    expected_step, arguments = step_of(method, views_of(*shape))
    mesh = jax.make_mesh((4, 2), AXES, (AxisType.Auto,) * 2)
    whole = replicated(mesh)
    step, _ = step_of(method, arguments[3], in_shardings=(whole, whole, whole, batch_sharding(mesh), whole))
    assert largest_array_moved(step.lower(*arguments).compile()) < arguments[3][0].size / 4
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4),
        step(*arguments),
        expected_step(*arguments),
    )


@pytest.mark.slow
def test_four_microbatches_need_a_quarter_of_the_memory():
    """Temporary memory of the gradient, in a network where the activations dominate."""
    views = views_of(64, 16, 16, 3)
    whole = VICReg(ResNet(BasicBlock, (1,), filters=16, stem="small"), NORMALIZING_HEAD)
    variables = jax.eval_shape(whole.init, jax.random.key(0), views)
    temporary = []
    for method in (whole, replace(whole, microbatches=4)):
        gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
        compiled = gradient.lower(*variables, views, jax.random.key(1)).compile()
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    assert temporary[0] > 2**24
    assert temporary[1] <= temporary[0] / 4
