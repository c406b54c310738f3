"""Values and parameter gradients on 1, 2, 4 and 8 devices equal those of one device on the global batch."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import vicreg_jax.losses as losses

BATCH = 8
KEYS = np.random.default_rng(0).normal(size=(9, 5))  # the negatives of InfoNCE, the same on every device
WEIGHTS = np.linspace(1, 2, 15)
MAPPINGS = ["jit", "pmap", "vmap", "shard_map, checked", "shard_map, unchecked"]
# On 8 devices each shard is one row. The default cases have N < D and N > D.
GRID = [(mapping, devices, dim) for mapping in MAPPINGS for devices, dim in ((4, 12), (8, 4), (1, 12), (2, 4))]
# test_checked_shard_map_needs_no_mean stands for the checked one.
DEFAULT = {("shard_map, unchecked", 4, 12)}
CASES = [pytest.param(*case, marks=() if case in DEFAULT else pytest.mark.slow) for case in GRID]


def network(params, images):
    hidden = jax.nn.relu(images @ params["kernel_0"] + params["bias_0"])
    return hidden @ params["kernel_1"] + params["bias_1"]


def problem(dim):
    rng = np.random.default_rng(dim)
    params = {
        "kernel_0": rng.normal(size=(5, 7)),
        "bias_0": rng.normal(size=7),
        "kernel_1": rng.normal(size=(7, dim)) * 0.2,
        "bias_1": rng.normal(size=dim),
    }
    return jax.tree.map(jnp.asarray, (params, rng.normal(size=(BATCH, 5)), rng.normal(size=(BATCH, 5))))


def plain_vicreg(z_a, z_b):
    """The official formula, D x D, differentiated by JAX."""

    def variance(z):
        return jnp.mean(jnp.maximum(0, 1 - jnp.sqrt(jnp.var(z, axis=0, ddof=1) + 1e-4)))

    def covariance(z):
        matrix = jnp.cov(z, rowvar=False)
        return (jnp.sum(matrix**2) - jnp.sum(jnp.diag(matrix) ** 2)) / z.shape[1]

    invariance = jnp.mean((z_a - z_b) ** 2)
    loss = 25 * invariance + 25 * (variance(z_a) + variance(z_b)) / 2 + covariance(z_a) + covariance(z_b)
    return loss, invariance, variance(z_a), covariance(z_a)


def plain_unbiased_covariance(z):
    x = z - z.mean(axis=0)
    n = len(x)
    matrix, fourth = x.T @ x / (n - 1), (x**2).T @ x**2 / (n - 1)
    variances = jnp.diag(matrix)
    estimate = (n - 1) * (n - 2) * matrix**2 + variances * variances[:, None] - n * fourth
    estimate *= (n - 1) / (n * (n - 2) * (n - 3))
    return (jnp.sum(estimate) - jnp.sum(jnp.diag(estimate))) / z.shape[1]


def plain_barlow_twins(z_a, z_b):
    x_a, x_b = ((z - z.mean(axis=0)) / jnp.sqrt(z.var(axis=0) + 1e-5) for z in (z_a, z_b))
    matrix = x_a.T @ x_b / len(z_a)
    on_diagonal = jnp.sum((jnp.diag(matrix) - 1) ** 2)
    return on_diagonal + 0.0051 * (jnp.sum(matrix**2) - jnp.sum(jnp.diag(matrix) ** 2))


def unit(z):
    return z / jnp.linalg.norm(z, axis=1, keepdims=True)


def plain_contrastive(z_a, z_b, temperature, positive_prior):
    """NT-Xent from the 2N x 2N matrix, debiased if the prior is above 0."""
    n, u = len(z_a), unit(jnp.concatenate([z_a, z_b]))
    similarities = jnp.exp(u @ u.T / temperature)
    positive = jnp.concatenate([jnp.diag(similarities[:n, n:])] * 2)
    negatives = jnp.sum(jnp.where(jnp.tile(jnp.eye(n, dtype=bool), (2, 2)), 0, similarities), axis=1)
    count = 2 * n - 2
    estimate = (negatives - positive_prior * count * positive) / (1 - positive_prior)
    return -jnp.mean(jnp.log(positive / (positive + jnp.maximum(estimate, count * jnp.exp(-1 / temperature)))))


def plain_info_nce(query, positive_key, negative_keys):
    query = unit(query)
    positive = jnp.exp(jnp.sum(query * unit(positive_key), axis=1) / 0.07)
    negatives = jnp.exp(query @ unit(negative_keys).T / 0.07)
    return -jnp.mean(jnp.log(positive / (positive + jnp.sum(negatives, axis=1))))


def plain_in_batch_info_nce(query, key):
    logits = unit(query) @ unit(key).T / 0.07
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits, axis=0) + jax.nn.log_softmax(logits, axis=1))) / 2


def plain_multi_view(z):
    """NT-Xent of three views: the negatives are all views of other images."""
    u = z / jnp.linalg.norm(z, axis=2, keepdims=True)
    exponentials = jnp.exp(jnp.einsum("vnd,wmd->vwnm", u, u) / 0.1)
    positive = jnp.einsum("vwnn->vwn", exponentials)
    negatives = jnp.sum(exponentials, axis=(1, 3)) - jnp.sum(positive, axis=1)
    pairs = -jnp.log(positive / (positive + negatives[:, None]))
    return (jnp.sum(pairs) - jnp.sum(jnp.einsum("vvn->vn", pairs))) / (6 * z.shape[1])


def cosine(x, y):
    return jnp.sum(unit(x) * unit(lax.stop_gradient(y)), axis=1)


def plain_triplet(anchor, positive, negative):
    distances = jnp.sum((anchor - positive) ** 2, axis=1) - jnp.sum((anchor - negative) ** 2, axis=1)
    return jnp.mean(jnp.maximum(0, distances + 1))


def plain_losses(z_a, z_b, z_c, keys):
    return jnp.stack(
        [
            *plain_vicreg(z_a, z_b),
            plain_unbiased_covariance(z_b),
            plain_barlow_twins(z_a, z_b),
            plain_contrastive(z_a, z_b, 0.1, 0.0),
            plain_contrastive(z_a, z_b, 0.5, 0.1),
            plain_info_nce(z_a, z_b, keys),
            plain_in_batch_info_nce(z_a, z_b),
            plain_multi_view(jnp.stack([z_a, z_b, z_c])),
            4 - 2 * jnp.mean(cosine(z_a, z_c) + cosine(z_b, z_c)),
            -jnp.mean(cosine(z_a, z_c) + cosine(z_b, z_c)) / 2,
            plain_triplet(z_a, z_b, z_c),
        ]
    )


def all_losses(z_a, z_b, z_c, keys, axis_name=None, block_size=3):
    """Every loss and every term."""
    along = {"axis_name": axis_name}
    return jnp.stack(
        [
            losses.vicreg_loss(z_a, z_b, **along).loss,
            losses.invariance_term(z_a, z_b, **along),
            losses.variance_term(z_a, **along),
            losses.covariance_term(z_a, **along),
            losses.covariance_term(z_b, unbiased=True, **along),
            losses.barlow_twins_loss(z_a, z_b, **along).loss,
            losses.nt_xent_loss(z_a, z_b, block_size=block_size, **along),
            losses.debiased_contrastive_loss(z_a, z_b, **along),
            losses.info_nce_loss(z_a, z_b, keys, **along),
            losses.info_nce_loss(z_a, z_b, symmetric=True, block_size=block_size, **along),
            losses.multi_view_nt_xent_loss(jnp.stack([z_a, z_b, z_c]), **along),
            losses.byol_loss(z_a, z_b, z_c, z_c, **along),
            losses.simsiam_loss(z_a, z_b, z_c, z_c, **along),
            losses.triplet_loss(z_a, z_b, z_c, **along),
        ]
    )


def embeddings(params, a, b):
    """Three views of the shard's images, and InfoNCE's negatives from images that every device shares."""
    return network(params, a), network(params, b), network(params, a + b), network(params, KEYS)


def plain_objectives(params, a, b):
    z_a, *others = embeddings(params, a, b)
    own = jnp.mean(z_a**4) + jnp.sum(params["kernel_1"] ** 2)
    return jnp.append(plain_losses(z_a, *others), own)


def objectives(params, a, b, axis_name=None):
    """All losses, and a custom term of the user."""
    z_a, *others = embeddings(params, a, b)
    own = jnp.mean(z_a**4)
    own = (own if axis_name is None else lax.pmean(own, axis_name)) + jnp.sum(params["kernel_1"] ** 2)
    return jnp.append(all_losses(z_a, *others, axis_name=axis_name), own)


def value_and_gradients(function, params, a, b):
    """The objectives, and the gradient of their sum with distinct weights."""

    def weighted(params):
        values = function(params, a, b)
        return jnp.dot(WEIGHTS, values), values

    gradients, values = jax.grad(weighted, has_aux=True)(params)
    return values, gradients


@cache
def expected_value_and_gradients(dim):
    with jax.enable_x64(True):
        return jax.jit(partial(value_and_gradients, plain_objectives))(*problem(dim))


def averaged(params, a, b, function=objectives):
    """What the user writes for each device: the value, and the mean of the gradients over the axis."""
    values, gradients = value_and_gradients(partial(function, axis_name="data"), params, a, b)
    return values, lax.pmean(gradients, "data")


def data_mesh(devices, axis_type=AxisType.Auto):
    return jax.make_mesh((devices,), ("data",), axis_types=(axis_type,), devices=jax.devices()[:devices])


def shards(x, devices):
    return x.reshape(devices, -1, *x.shape[1:])


def on_every_device(mapping, devices, params, a, b, function=objectives):
    """Values and gradients with a leading axis of one entry per device."""
    averaged_function = partial(averaged, function=function)
    if mapping == "jit":
        mesh = data_mesh(devices)
        a, b = jax.device_put((a, b), NamedSharding(mesh, P("data")))
        params = jax.device_put(params, NamedSharding(mesh, P()))
        result = jax.jit(partial(value_and_gradients, function))(params, a, b)
        return jax.tree.map(lambda x: x[None], result)
    if mapping == "shard_map, checked" or mapping == "shard_map, unchecked":
        mapped = jax.shard_map(
            lambda *arguments: jax.tree.map(lambda x: x[None], averaged_function(*arguments)),
            mesh=data_mesh(devices),
            in_specs=(P(), P("data"), P("data")),
            out_specs=P("data"),
            check_vma=mapping == "shard_map, checked",
        )
        return jax.jit(mapped)(params, a, b)
    map_function = partial(jax.pmap, devices=jax.devices()[:devices]) if mapping == "pmap" else jax.vmap
    mapped = map_function(averaged_function, axis_name="data", in_axes=(None, 0, 0))
    return (mapped if mapping == "pmap" else jax.jit(mapped))(params, shards(a, devices), shards(b, devices))


def assert_close(actual, expected, rtol=1e-11):
    """Compare pytrees of numbers around 1; every device's entry must equal the expected one."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(e, a.shape), rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("mapping", "devices", "dim"), CASES)
def test_value_and_gradients_equal_one_device(mapping, devices, dim):
    with jax.enable_x64(True):
        actual = on_every_device(mapping, devices, *problem(dim))
        assert_close(actual, expected_value_and_gradients(dim))


@pytest.mark.slow
def test_vicreg_in_a_scan_under_checkpoint():
    def scanned(z_a, z_b):
        @jax.checkpoint
        def step(total, weight):
            return total + weight * losses.vicreg_loss(z_a, z_b).loss, None

        return lax.scan(step, jnp.zeros(()), jnp.arange(3.0))[0]

    with jax.enable_x64(True):
        views = jax.random.normal(jax.random.key(0), (2, 8, 12))
        expected = jax.jit(jax.value_and_grad(lambda *views: 3 * plain_vicreg(*views)[0]))(*views)
        sharded = jax.device_put(tuple(views), NamedSharding(data_mesh(8), P("data")))
        assert_close(jax.jit(jax.value_and_grad(scanned))(*sharded), expected)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["jit", "pmap", "vmap", "shard_map, checked"])
def test_all_in_a_scan_under_checkpoint(mapping):
    def scanned(params, a, b, axis_name=None):
        @jax.checkpoint
        def step(total, weight):
            return total + weight * objectives(params, a, b, axis_name), None

        return lax.scan(step, jnp.zeros(WEIGHTS.size), jnp.arange(3.0))[0]

    with jax.enable_x64(True):
        actual = on_every_device(mapping, 8, *problem(12), function=scanned)
        assert_close(actual, jax.tree.map(lambda x: 3 * x, expected_value_and_gradients(12)))


def in_one_shard_map(function, **options):
    specs = {"mesh": data_mesh(8), "in_specs": (P(), P("data"), P("data")), "out_specs": P()}
    return jax.jit(jax.shard_map(function, **specs, **options))


@pytest.mark.slow
def test_checked_shard_map_needs_no_mean():
    """JAX has already summed the gradients, and knows that the result is replicated."""
    with jax.enable_x64(True):
        actual = in_one_shard_map(partial(value_and_gradients, partial(objectives, axis_name="data")))(*problem(12))
        assert_close(actual, expected_value_and_gradients(12))


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "check_vma"), [(12, True), pytest.param(4, False, marks=pytest.mark.slow)])
def test_differentiated_from_outside(dim, check_vma):
    with jax.enable_x64(True):
        mapped = in_one_shard_map(partial(objectives, axis_name="data"), check_vma=check_vma)
        actual = jax.jit(partial(value_and_gradients, mapped))(*problem(dim))
        assert_close(actual, expected_value_and_gradients(dim))


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "check_vma"), [(12, True), pytest.param(4, False, marks=pytest.mark.slow)])
def test_batch_over_two_mesh_axes(dim, check_vma):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    names = ("data", "fsdp")

    def local(*arguments):
        return lax.pmean(value_and_gradients(partial(objectives, axis_name=names), *arguments), names)

    with jax.enable_x64(True):
        arguments = problem(dim)
        in_specs = (P(), P(names), P(names))
        mapped = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=check_vma)
        assert_close(jax.jit(mapped)(*arguments), expected_value_and_gradients(dim))


@pytest.mark.parametrize("check_vma", [True, False])
def test_replicated_embeddings_count_once_per_device(check_vma):
    z = jax.random.normal(jax.random.key(0), (3, 5))
    mapped = jax.shard_map(
        jax.value_and_grad(partial(losses.covariance_term, axis_name="data")),
        mesh=data_mesh(4),
        in_specs=P(),
        out_specs=P(),
        check_vma=check_vma,
    )
    value, gradient = jax.jit(mapped)(z)
    on_one_device = jax.value_and_grad(lambda z: losses.covariance_term(jnp.tile(z, (4, 1))))
    expected, expected_gradient = jax.jit(on_one_device)(z)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [pytest.param(4, marks=pytest.mark.slow), 12])
def test_explicit_mesh_axes(dim):
    """The default axis type of `jax.make_mesh`."""
    with jax.enable_x64(True):
        params, a, b = problem(dim)
        *views, keys = embeddings(params, a, b)
        sharded = jax.device_put(views, NamedSharding(data_mesh(8, AxisType.Explicit), P("data")))

        def weighted(function, views):
            return jnp.dot(WEIGHTS[:-1], function(*views, keys))

        expected = jax.jit(jax.value_and_grad(partial(weighted, plain_losses)))(views)
        assert_close(jax.jit(jax.value_and_grad(partial(weighted, all_losses)))(sharded), expected)


def test_explicit_mesh_axes_take_every_batch_size():
    """Rows are padded, so that each device has its share of every block, whatever the block size."""
    sharding = NamedSharding(data_mesh(8, AxisType.Explicit), P("data"))
    for batch in (8, 24, 296, 520, 808, 2056):
        z = jax.ShapeDtypeStruct((batch, 16), jnp.float32, sharding=sharding)
        for block_size in (None, 3, 100):
            loss = partial(losses.nt_xent_loss, block_size=block_size)
            assert jax.eval_shape(jax.jit(jax.grad(loss)), z, z).shape == (batch, 16)


def test_negatives_that_are_sharded_over_an_explicit_mesh():
    """The queue of the page on InfoNCE: keys in, keys out."""
    sharding = NamedSharding(data_mesh(8, AxisType.Explicit), P("data"))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(rows, 5)).astype(np.float32) for rows in (16, 16, 64)]

    @jax.jit
    def step(query, key, queue):
        return jax.grad(losses.info_nce_loss)(query, key, queue), jnp.concatenate([key, queue[:-16]])

    for actual, expected in zip(step(*jax.device_put(arrays, sharding)), step(*arrays), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
