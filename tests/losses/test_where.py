"""`where`: value and gradients are those of the rows that count, alone."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.losses.cases import CASES
from vicreg_jax import losses

SLOW = pytest.mark.slow
WHERE = np.array([True, True, False, True, True, True, False, False, True, True, True, True, False, True, True, True])
# One of each kind of reduction; the rest of the grid is slow.
QUICK = ("vicreg", "barlow_twins", "multi_view_nt_xent", "byol")


def names(quick=QUICK):
    return [pytest.param(name, marks=() if name in quick else SLOW) for name in CASES]


def embeddings(name, dim, rows=16):
    return jax.random.normal(jax.random.key(rows * dim), (CASES[name][1], rows, dim))


@cache
def compiled(name, masked=True):
    """The first scalar and its gradients, as a function of embeddings and of the rows that count."""
    loss = CASES[name][0]

    def value(z, where):
        return jax.tree.leaves(loss(*z, **({"where": where} if masked else {})))[0]

    return jax.jit(jax.value_and_grad(value))


@pytest.mark.parametrize("dim", [24, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize("name", names())
def test_value_and_gradients_of_the_rows_that_count(name, dim):
    """The others may hold anything; N < D and N > D."""
    with jax.enable_x64(True):
        z = embeddings(name, dim)
        expected, expected_gradient = compiled(name, masked=False)(z[:, WHERE], None)
        for filling in (0.0, 1e3, jnp.nan):
            value, gradient = compiled(name)(jnp.where(WHERE[:, None], z, filling), WHERE)
            np.testing.assert_allclose(value, expected, rtol=1e-12)
            np.testing.assert_allclose(gradient[:, WHERE], expected_gradient, rtol=1e-9, atol=1e-13)
            assert not np.any(gradient[:, ~WHERE])


# The compiler rounds a sum times a factor once or twice, as it fuses them.
TO_ROUNDING = (
    *("vicreg", "vicreg, unbiased", "variance", "covariance", "barlow_twins", "simsiam"),
    *("sigreg", "visreg", "corinfomax", "frossl, multi", "frossl, rows, multi"),
)


@pytest.mark.parametrize("name", names(quick=("vicreg", "nt_xent", "byol")))
@pytest.mark.parametrize("shape", [(12, 24), pytest.param((11, 3), marks=SLOW), pytest.param((100, 64), marks=SLOW)])
def test_all_rows_give_the_bits_of_none(name, shape):
    rows, dim = shape
    z = embeddings(name, dim, rows)
    actual, expected = compiled(name)(z, jnp.ones(rows, bool)), compiled(name, masked=False)(z, None)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        tolerance = 1e-5 * float(jnp.abs(e).max()) if name in TO_ROUNDING else 0
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance)


# Values for 0 rows and for 1 row of `[.., 24]` embeddings that are not equal; None: the value depends on the row.
FEW_ROWS = {
    "vicreg": (25 * 0.99, None),
    "vicreg, unbiased": (25 * 0.99, None),
    "invariance": (0, None),
    "variance": (0.99, 0.99),
    "covariance": (0, 0),
    "barlow_twins": (24, 24),
    "nt_xent": (0, 0),
    "multi_view_nt_xent": (0, 0),
    "info_nce": (0, None),
    "info_nce, in the batch": (0, 0),
    "info_nce, own negatives": (0, None),
    "debiased_contrastive": (0, 0),
    "byol": (0, None),
    "simsiam": (0, None),
    "triplet": (0, None),
    "multi_view_invariance": (0, None),
    "sigreg": (0, None),
    "visreg": (None, None),
    "corinfomax": (None, None),
    "koleo": (0, 0),
    "frossl, multi": (0, None),
    "frossl, rows, multi": (0, None),
}


@pytest.mark.parametrize("name", names())
def test_too_few_rows(name):
    """A stated value, and finite gradients, which are zero if no row counts."""
    z = embeddings(name, 24)
    for count, expected in enumerate(FEW_ROWS[name]):
        value, gradient = compiled(name)(z, np.arange(16) < count)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        if expected is not None:
            np.testing.assert_allclose(value, expected, rtol=1e-6)
        if count == 0:
            assert not np.any(gradient)


def test_unbiased_covariance_of_fewer_than_four_rows_is_zero():
    z = jax.random.normal(jax.random.key(0), (8, 24))
    term = jax.jit(jax.value_and_grad(lambda z, where: losses.covariance_term(z, unbiased=True, where=where)))
    for count in range(4):
        value, gradient = term(z, np.arange(8) < count)
        assert value == 0
        assert not np.any(gradient)


def on_devices(mapping, name, devices, z, where):
    """Value and gradient on every device, each with its own part of `where`."""
    function = CASES[name][0]

    def value(z, where, axis_name=None):
        return jax.tree.leaves(function(*z, where=where, axis_name=axis_name))[0]

    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    if mapping == "jit":
        z = jax.device_put(z, NamedSharding(mesh, P(None, "data")))
        return jax.jit(jax.value_and_grad(value))(z, jax.device_put(where, NamedSharding(mesh, P("data"))))
    mapped = jax.shard_map(
        partial(value, axis_name="data"),
        mesh=mesh,
        in_specs=(P(None, "data"), P("data")),
        out_specs=P(),
        check_vma=mapping == "shard_map, checked",
    )
    return jax.jit(jax.value_and_grad(mapped))(z, where)


@pytest.mark.parametrize("name", names(quick=("vicreg", "nt_xent")))
@pytest.mark.parametrize("dim", [24, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize(
    ("mapping", "devices"),
    [
        ("shard_map, checked", 4),
        *(pytest.param(m, d, marks=SLOW) for m, d in [("jit", 8), ("shard_map, unchecked", 8), ("jit", 2)]),
    ],
)
def test_every_device_has_its_own_rows(mapping, devices, dim, name):
    """Of different number: the third of four shards has one row that counts, the fourth three."""
    with jax.enable_x64(True):
        z = embeddings(name, dim)
        value, gradient = on_devices(mapping, name, devices, z, WHERE)
        expected, expected_gradient = compiled(name)(z, WHERE)
        np.testing.assert_allclose(value, expected, rtol=1e-11)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_one_program_for_every_number_of_rows(name):
    z = embeddings(name, 24)
    traced = compiled(name)
    programs = [traced(z, jnp.arange(16) < 16), traced._cache_size()][1]
    for count in (5, 9, 16):
        expected = compiled(name, masked=False)(z[:, :count], None)
        value, gradient = traced(z, jnp.arange(16) < count)
        np.testing.assert_allclose(value, expected[0], rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(gradient[:, :count], expected[1], rtol=1e-3, atol=1e-5)
    assert traced._cache_size() == programs


@pytest.mark.parametrize("name", [name for name in CASES if "multi" not in name])
def test_errors(name):
    loss, count = CASES[name]
    z = [jnp.ones((8, 3))] * count
    with pytest.raises(TypeError, match=r"where must have dtype bool; got dtype int32"):
        loss(*z, where=jnp.ones(8, jnp.int32))
    with pytest.raises(ValueError, match=r"where must have shape \[batch\], \(8,\); got shape \(8, 1\)"):
        loss(*z, where=jnp.ones((8, 1), bool))
