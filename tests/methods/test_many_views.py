"""A step with two global and two local views, against float64 NumPy: the formulas of two views, averaged over pairs."""

from copy import deepcopy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.methods import test_one_step as two_views
from tests.methods.test_batch_norm import BACKBONE, HEAD, PREDICTOR, Reference, close, random_variables
from tests.methods.test_one_step import BATCH, DIM, STEP_KEY, covariance_of, slopes, unit, variance_of
from vicreg_jax.methods import METHODS
from vicreg_jax.methods.interleave import interleave, separate
from vicreg_jax.methods.pairs import mean_over_pairs
from vicreg_jax.models import BasicBlock, Head, ResNet, ViT
from vicreg_jax.training.mesh import AXES, batch_sharding, replicated

VIEWS, GLOBAL = 4, 2
# Every view with each other global one: two global views in both orders.
PAIRS = [(1, 0), (2, 0), (3, 0), (0, 1), (2, 1), (3, 1)]


def over_pairs(function):
    """The mean over all pairs of a view and another, global one."""
    return np.mean([function(view, of_global) for view, of_global in PAIRS])


def spread(z, target_std=1, epsilon=1e-4):
    """Means over the views; the covariance is summed over two."""
    return {
        "variance": np.mean([variance_of(view, target_std, epsilon) for view in z]),
        "covariance": 2 * np.mean([covariance_of(view) for view in z]),
    }


# Arguments of every reference: embeddings and predictions of the four views, constant targets of the global ones.


def vicreg(z, p, targets, queue, **fields):
    terms = {
        "invariance": over_pairs(lambda v, g: (np.mean((p[v] - z[g]) ** 2) + np.mean((p[g] - z[v]) ** 2)) / 2)
    } | spread(z)
    return 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"], terms


def barlow_twins(z, p, targets, queue):
    pairs = [two_views.barlow_twins((z[v], z[g]), None, None, None) for v, g in PAIRS]
    terms = {name: np.mean([of_pair[name] for _, of_pair in pairs]) for name in ("on_diagonal", "off_diagonal")}
    return np.mean([loss for loss, _ in pairs]), terms


def simclr(z, p, targets, queue):
    return over_pairs(lambda v, g: two_views.simclr((z[v], z[g]), None, None, None)[0]), {}


def byol(z, p, targets, queue):
    def squared_distance(v, g):
        return np.mean(np.sum((unit(p[v]) - unit(targets[g])) ** 2, axis=1))

    terms = {"invariance": 2 * over_pairs(squared_distance)} | spread(z)  # the sum of both directions of two views
    return terms["invariance"], terms


def simsiam(z, p, targets, queue, variance_weight, covariance_weight):
    terms = {"invariance": -over_pairs(lambda v, g: np.mean(np.sum(unit(p[v]) * unit(targets[g]), axis=1)))} | spread(z)
    return terms["invariance"] + variance_weight * terms["variance"] + covariance_weight * terms["covariance"], terms


def moco(z, p, targets, queue, symmetric=False, **fields):
    def one_direction(v, g):
        return two_views.moco((z[v], None), None, (None, targets[g]), queue)[0]

    if symmetric:
        return 2 * over_pairs(one_direction), {}
    return np.mean([one_direction(view, 1) for view in (0, 2, 3)]), {}


def lejepa(z, p, targets, queue, **fields):
    _, terms = two_views.lejepa(z, None, None, None, **fields)  # SIGReg: the mean over the views
    terms["invariance"] = np.mean((z - np.mean(z[:GLOBAL], axis=0)) ** 2)
    return 0.95 * terms["invariance"] + 0.05 * terms["sigreg"], terms


def visreg(z, p, targets, queue, **fields):
    _, terms = two_views.visreg(z, None, targets, None, **fields)
    terms["invariance"] = np.mean((z - np.mean(z[:GLOBAL], axis=0)) ** 2)
    return 0.1 * terms["invariance"] + 0.9 * (terms["center"] + terms["scale"] + terms["shape"]), terms


CASES = [
    (vicreg, True, {}),
    (byol, True, {}),
    (barlow_twins, False, {}),
    (simclr, False, {}),
    (moco, False, {"queue_size": 24, "symmetric": True}),
    (simsiam, True, {"variance_weight": 3.0, "covariance_weight": 0.7}),
    (lejepa, False, {"slices": 5}),
    (visreg, False, {"slices": 5}),
    (moco, False, {"queue_size": 24}),
    (vicreg, False, {}),
]


def test_every_method_of_many_views_is_tested():
    assert {reference.__name__ for reference, *_ in CASES} == {
        name for name, method in METHODS.items() if method.takes_many_views
    }


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("reference", "has_predictor", "fields"),
    [pytest.param(*case, marks=pytest.mark.slow if index > 1 else ()) for index, case in enumerate(CASES)],
)
def test_loss_and_gradient_are_means_over_pairs(linear, reference, has_predictor, fields):
    random, name = np.random.default_rng(0), reference.__name__
    views = random.normal(0.2, 0.7, size=(VIEWS, BATCH, DIM))
    predictor, target = np.eye(DIM) + 0.4 * random.normal(size=(2, DIM, DIM))
    identity = {"kernel": np.eye(DIM)}
    params = {"backbone": identity, "head": identity}
    parts = {}
    if has_predictor:
        parts["predictor"], params["predictor"] = linear(DIM), {"kernel": predictor}
    method = METHODS[name](linear(DIM), linear(DIM), **parts, **fields)
    extra_state, targets = {}, views.copy()
    queue = unit(random.normal(size=(fields.get("queue_size", 1), DIM)))
    if name in ("byol", "moco"):
        targets = views @ target
        extra_state["target_params"] = {"backbone": {"kernel": target}, "head": identity}
        extra_state["target_batch_stats"] = {"backbone": {}, "head": {}}
    if name == "moco":
        extra_state |= {"queue": queue, "queue_position": np.int32(0)}

    def expected():
        return reference(views, views @ predictor if has_predictor else views, targets, queue, **fields)

    gradients = jax.jit(jax.value_and_grad(method.loss, argnums=(0, 3), has_aux=True))
    arguments = params, {part: {} for part in params}, extra_state, tuple(views), STEP_KEY
    (loss, outputs), (by_params, by_views) = gradients(*arguments)
    expected_loss, terms = expected()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    assert outputs.terms.keys() == terms.keys() == set(method.terms)
    for term, value in terms.items():
        np.testing.assert_allclose(outputs.terms[term], value, rtol=1e-11, err_msg=term)
    np.testing.assert_array_equal(outputs.features, views[0])

    by_embeddings, *by_predictor = slopes(lambda: expected()[0], [views, predictor] if has_predictor else [views])
    np.testing.assert_allclose(np.stack(by_views), by_embeddings, rtol=1e-7, atol=1e-8)
    by_kernel = np.einsum("vni,vnj->ij", views, by_embeddings)
    np.testing.assert_allclose(by_params["backbone"]["kernel"], by_kernel, rtol=1e-7, atol=1e-7)
    if has_predictor:
        np.testing.assert_allclose(by_params["predictor"]["kernel"], by_predictor[0], rtol=1e-7, atol=1e-8)
    if name == "moco":
        keys = [unit(targets[view]) for view in ((1, 0) if fields.get("symmetric") else (1,))]
        np.testing.assert_allclose(outputs.extra_state["queue"][: BATCH * len(keys)], np.concatenate(keys), rtol=1e-12)
        assert outputs.extra_state["queue_position"] == BATCH * len(keys)


def test_means_over_pairs():
    values = np.random.default_rng(0).normal(size=(5, 5))
    values += values.T

    def loss(a, b):
        return {"loss": jnp.float32(values[a, b])}

    for views, global_views in ((2, 2), (2, 1), (5, 1), (5, 3), (5, 5)):
        expected = np.mean([values[g, v] for g in range(global_views) for v in range(views) if v != g])
        found = mean_over_pairs(loss, views, global_views)["loss"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert mean_over_pairs(loss, 2, 2)["loss"] == np.float32(values[0, 1])
    with pytest.raises(ValueError, match=r"^views must be at least 2; got 1$"):
        mean_over_pairs(loss, 1, 1)
    with pytest.raises(ValueError, match=r"^global_views must be from 1 to the 3 views; got 4$"):
        mean_over_pairs(loss, 3, 4)


def test_rows_of_many_views_come_apart_again():
    views = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(interleave(*views)[:4], [views[0][0], views[1][0], views[2][0], views[0][1]])
    for block in (1, 2, 4):
        for found, view in zip(separate(interleave(*views, block=block), 3, block=block), views, strict=True):
            np.testing.assert_array_equal(found, view)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.takes_many_views])
def test_methods_of_two_views_refuse_more(name):
    view = np.zeros((6, 3), np.float32)
    method = METHODS[name](Head((6,)), Head((4,)))
    variables = jax.eval_shape(method.init, jax.random.key(0), (view, view))
    with pytest.raises(ValueError, match=r"^views must be 2 for \w+, which compares two views; got 3\b"):
        jax.eval_shape(method.loss, *variables, (view,) * 3, jax.random.key(0))


def test_views_and_branches_that_do_not_fit_are_refused():
    view = np.zeros((6, 3), np.float32)
    method = METHODS["vicreg"](Head((6,)), Head((4,)), second_head=Head((4,)))
    for views, global_views in ((3, 2), (2, 1)):
        message = (
            rf"^views must be 2, both global, if the branches differ; got {views} with global_views={global_views}$"
        )
        with pytest.raises(ValueError, match=message):
            replace(method, global_views=global_views).check_views(views)
    with pytest.raises(ValueError, match=r"^global_views must be at least 2 for MoCo, a query and its key; got 1$"):
        METHODS["moco"](Head((6,)), Head((4,)), global_views=1)
    byol = METHODS["byol"](Head((6,)), Head((4,)), global_views=1)
    variables = jax.eval_shape(byol.init, jax.random.key(0), (view, view))
    loss, _ = jax.eval_shape(byol.loss, *variables, (view,) * 3, jax.random.key(0))
    assert loss.shape == ()


# Two global views and three local ones, of 8 and of 4 pixels.
IMAGES = tuple(
    np.random.default_rng(view).normal(view, 1.0, (8, side, side, 1)).astype(np.float32)
    for view, side in enumerate((8, 8, 4, 4, 4))
)
RESNET = ResNet(BasicBlock, (1,), filters=4, stem="small")


def convolutions(method, arguments):
    return str(jax.make_jaxpr(method.loss)(*arguments)).count("conv_general_dilated[")


def test_views_of_one_size_go_as_one_batch():
    method = METHODS["vicreg"](RESNET, Head((3,)))
    variables = jax.eval_shape(method.init, jax.random.key(0), IMAGES[:2])
    two, five = (convolutions(method, (*variables, views, jax.random.key(1))) for views in (IMAGES[:2], IMAGES))
    assert five == 2 * two


def test_each_view_has_its_statistics_and_only_global_views_move_the_running_ones():
    method = METHODS["vicreg"](BACKBONE, HEAD, predictor=PREDICTOR)
    views = tuple(np.random.default_rng(0).normal(0.5, 1.0, (5, BATCH, 7)).astype(np.float32))
    params, stats, _ = random_variables(jax.eval_shape(method.init, jax.random.key(0), views))
    _, outputs = jax.jit(method.loss)(params, stats, {}, views, jax.random.key(0))
    network, moved = Reference(params, stats), None
    z, p = [], []
    for view in views:
        z.append(network("head", network("backbone", view)))
        p.append(network("predictor", z[-1]))
        moved = deepcopy(network.stats) if len(z) == GLOBAL else moved
    close(outputs.batch_stats, moved)
    pairs = [(g, v) for g in range(GLOBAL) for v in range(5) if v != g]
    invariance = [np.mean((p[v] - z[g]) ** 2) + np.mean((p[g] - z[v]) ** 2) for g, v in pairs]
    close(outputs.terms["invariance"], np.mean(invariance) / 2)


FIELDS = {"moco": {"queue_size": 32, "symmetric": True}, "lejepa": {"slices": 8}, "visreg": {"slices": 8}}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.takes_many_views])
def test_one_two_four_and_eight_devices_make_the_same_step(name):
    method = METHODS[name](RESNET, Head((6, 3)), **FIELDS.get(name, {}))
    arguments = (*random_variables(jax.eval_shape(method.init, jax.random.key(0), IMAGES)), IMAGES, jax.random.key(1))
    if name == "moco":
        arguments[2]["queue_position"] = np.int32(0)

    def step(devices):
        mesh = jax.make_mesh((devices, 1), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[:devices])
        whole = replicated(mesh)
        gradient = jax.value_and_grad(method.loss, has_aux=True)
        return jax.jit(gradient, in_shardings=(whole, whole, whole, batch_sharding(mesh), whole))(*arguments)

    expected = jax.device_get(step(1))
    for devices in (2, 4, 8):
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-3, atol=2e-3), jax.device_get(step(devices)), expected
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.takes_many_views])
def test_microbatches_change_nothing_where_rows_are_independent(name):
    parts = Head((6,), batch_norm=False), Head((10, 8), batch_norm=False)
    views = tuple(np.random.default_rng(0).normal(size=(VIEWS, 8, 7)).astype(np.float32))
    results = []
    for microbatches in (1, 4):
        method = METHODS[name](*parts, microbatches=microbatches, **FIELDS.get(name, {}))
        variables = jax.jit(method.init)(jax.random.key(0), views)
        step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
        results.append(jax.device_get(step(*variables, views, jax.random.key(1))))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4), *results)


@pytest.mark.slow
def test_vit_takes_local_views():
    vit = ViT(patch_size=2, dim=12, depth=2, heads=3, image_size=8, stochastic_depth=0.3)
    method = METHODS["lejepa"](vit, Head((6, 3)), slices=8)
    variables = jax.jit(method.init)(jax.random.key(0), IMAGES[:2])
    gradient = jax.jit(jax.grad(method.loss, has_aux=True))
    by_params, outputs = gradient(*variables, IMAGES, jax.random.key(1))
    assert outputs.features.shape == (8, 12)
    assert np.abs(by_params["backbone"]["pos_embed"]).min(axis=(0, 2)).max() > 0
