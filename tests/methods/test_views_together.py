"""Views that share a part go through it as one batch, and the step is that of one view after the other."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from vicreg_jax.methods import METHODS
from vicreg_jax.methods.interleave import interleave, separate
from vicreg_jax.models import BasicBlock, Head, ResNet

BATCH = 6


class OneViewAtATime(nn.Module):
    """A part that does not take `views`."""

    part: nn.Module

    @nn.compact
    def __call__(self, x, *, train=False):
        return self.part(x, train=train)


def unwrapped(tree):
    """The variables of a method whose parts are not wrapped."""
    if not isinstance(tree, dict):
        return tree
    return {name: unwrapped(part) for name, part in tree.get("part", tree).items()}


def convolutions(method, arguments):
    return str(jax.make_jaxpr(method.loss)(*arguments)).count("conv_general_dilated[")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vicreg", {"predictor": Head((4, 3))}),
        pytest.param("byol", {"predictor": Head((4, 3))}, marks=pytest.mark.slow),
        pytest.param("barlow_twins", {}, marks=pytest.mark.slow),
    ],
)
def test_step_is_that_of_one_view_after_the_other(name, fields):
    backbone, head = ResNet(BasicBlock, (1,), filters=4, stem="small"), Head((6, 3))
    together = METHODS[name](backbone, head, **fields)
    in_turn = METHODS[name](OneViewAtATime(backbone), OneViewAtATime(head), **fields)
    random = np.random.default_rng(0)
    views = tuple(random.normal(mean, 1.0, (BATCH, 4, 4, 1)).astype(np.float32) for mean in (0.0, 2.0))
    shapes = jax.eval_shape(in_turn.init, jax.random.key(0), views)
    variables = jax.tree.map(lambda leaf: random.uniform(0.5, 1.0, leaf.shape).astype(np.float32), shapes)
    wrapped = (*variables, views, jax.random.key(1))
    bare = (*map(unwrapped, variables), views, jax.random.key(1))
    assert 2 * convolutions(together, bare) == convolutions(in_turn, wrapped)

    step, step_in_turn = (jax.jit(jax.value_and_grad(each.loss, has_aux=True)) for each in (together, in_turn))
    (loss, outputs), gradient = step(*bare)
    (expected, expected_outputs), expected_gradient = step_in_turn(*wrapped)
    compared = (loss, outputs.features, outputs.embeddings, outputs.batch_stats, gradient)
    wanted = (
        expected,
        expected_outputs.features,
        expected_outputs.embeddings,
        unwrapped(expected_outputs.batch_stats),
        unwrapped(expected_gradient),
    )
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4), compared, wanted)


def test_views_of_two_sizes_go_in_turn():
    method = METHODS["vicreg"](ResNet(BasicBlock, (1,), filters=4, stem="small"), Head((3,)))
    large, small = np.zeros((BATCH, 6, 6, 1), np.float32), np.zeros((BATCH, 4, 4, 1), np.float32)
    variables = jax.eval_shape(method.init, jax.random.key(0), (large, small))
    one, two = (
        convolutions(method, (*variables, views, jax.random.key(1))) for views in ((large, large), (large, small))
    )
    assert two == 2 * one


def test_interleaved_rows_come_apart_again():
    a, b = np.arange(12.0).reshape(4, 3), -np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(interleave(a, b)[:3], [a[0], b[0], a[1]])
    np.testing.assert_array_equal(interleave(a, b, block=2)[:5], [a[0], a[1], b[0], b[1], a[2]])
    for block in (1, 2, 4):
        for found, view in zip(separate(interleave(a, b, block=block), block=block), (a, b), strict=True):
            np.testing.assert_array_equal(found, view)
