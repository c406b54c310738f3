import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.cases import OF_EMBEDDINGS, OTHERS
from vicreg_jax import losses

Z = jnp.ones((4, 3))
LOSSES = [
    OF_EMBEDDINGS.get(value, value)
    for _, value in inspect.getmembers(losses, inspect.isfunction)
    if value not in OTHERS
]
VICREG_TERMS = ("invariance", "variance", "covariance")
BATCH_STATISTICS = [losses.vicreg_loss, losses.variance_term, losses.covariance_term, losses.barlow_twins_loss]
SUCCESSORS = [*OF_EMBEDDINGS.values(), losses.koleo_term]
BATCH_STATISTICS += SUCCESSORS


# One of each kind of reduction; the others are compiled in the slow tests.
QUICK = (losses.vicreg_loss, losses.barlow_twins_loss, losses.nt_xent_loss, losses.info_nce_loss, losses.simsiam_loss)


def quick(loss):
    return () if loss in QUICK else pytest.mark.slow


def names(loss):
    """Names of the arguments that are embeddings."""
    parameters = inspect.signature(loss).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind == parameter.POSITIONAL_OR_KEYWORD]


ARGUMENTS = [pytest.param(loss, name, id=f"{loss.__name__}-{name}") for loss in LOSSES for name in names(loss)]


def raises(error, *words):
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


@pytest.mark.parametrize(("loss", "name"), ARGUMENTS)
def test_errors_name_the_argument(loss, name):
    def call(argument):
        return loss(**dict.fromkeys(names(loss), Z) | {name: argument})

    with raises(ValueError, f"{name} must", "[batch, dim]", "(4, 3, 1, 1)"):
        call(Z[..., None, None])
    with raises(ValueError, f"{name} must", "[batch, dim]", "(4,)"):
        call(Z[:, 0])
    for dtype in ("int32", "bool", "complex64"):
        with raises(TypeError, f"{name} must", "floating", dtype):
            call(Z.astype(dtype))
    for empty in (Z[:0], Z[:, :0]):
        with raises(ValueError, f"{name} must", "at least one", str(empty.shape)):
            call(empty)


@pytest.mark.parametrize(("loss", "name"), ARGUMENTS)
def test_shapes_must_equal_the_first_arguments_shape(loss, name):
    first, *others = names(loss)
    if name in others:
        arguments = dict.fromkeys(names(loss), Z)
        with raises(ValueError, f"{name} must", first, "(4, 2)"):
            loss(**arguments | {name: Z[:, :2]})
        if name == "negative_keys":  # the queue has its own length
            jax.eval_shape(partial(loss, **arguments | {name: Z[:1]}))
        else:
            with raises(ValueError, f"{name} must", f"same shape as {first}", "(4, 3)", "(1, 3)"):  # no broadcasting
                loss(**arguments | {name: Z[:1]})


@pytest.mark.parametrize("loss", [pytest.param(loss, marks=quick(loss)) for loss in LOSSES])
def test_a_single_row(loss):
    """Too few for batch statistics, unless other devices hold more rows."""
    name, *others = names(loss)
    row = [Z[:1]] * (1 + len(others))
    of_shards = jax.jit(jax.vmap(partial(loss, axis_name="i"), axis_name="i"))
    if loss in BATCH_STATISTICS:
        with raises(ValueError, f"{name} must", "global batch of at least 2", "(1, 3)"):
            loss(*row)
        with raises(ValueError, f"{name} must", "global batch of at least 2", "(1, 3) on each of 1 shards along 'i'"):
            of_shards(*(z[None] for z in row))
    else:
        assert np.isfinite(jax.jit(loss)(*row))
    for scalar in jax.tree.leaves(of_shards(*(jnp.stack([z, 2 * z]) for z in row))):
        assert np.all(np.isfinite(scalar))


def test_arrays_of_rank_three_get_a_hint():
    with raises(ValueError, "z_a must have shape [batch, dim]; got shape (4, 3, 2) (jax.vmap the loss over the third"):
        losses.vicreg_loss(jnp.ones((4, 3, 2)), jnp.ones((4, 3, 2)))


@pytest.mark.parametrize("loss", LOSSES)
def test_an_unbound_axis_is_named(loss):
    with raises(ValueError, "axis_name must be an axis of the enclosing", "got 'data'", "None under jax.jit"):
        jax.jit(partial(loss, axis_name="data")).eval_shape(*[Z] * len(names(loss)))


@pytest.mark.parametrize(
    ("loss", "setting", "values", "rule"),
    [
        (losses.vicreg_loss, "epsilon", (-10.0, np.nan, np.inf), "at least 0 and finite"),
        (losses.vicreg_loss, "target_std", (-1, np.nan), "at least 0 and finite"),
        *((losses.vicreg_loss, f"{term}_weight", (np.nan, np.inf), "finite") for term in VICREG_TERMS),
        (losses.variance_term, "epsilon", (-1e-4,), "at least 0 and finite"),
        (losses.barlow_twins_loss, "redundancy_weight", (np.nan,), "finite"),
        (losses.barlow_twins_loss, "epsilon", (-1e-5,), "at least 0 and finite"),
        (losses.triplet_loss, "margin", (-0.1, np.nan), "at least 0 and finite"),
    ],
)
def test_ranges_of_settings(loss, setting, values, rule):
    arguments = [Z] * len(names(loss))
    for value in values:
        with raises(ValueError, f"{setting} must be {rule}; got {value}"):
            loss(*arguments, **{setting: value})
    jax.jit(lambda value: loss(*arguments, **{setting: value})).eval_shape(values[0])  # traced: cannot be checked
    if setting.endswith("weight"):
        jax.eval_shape(partial(loss, **{setting: -1.0}), *arguments)  # negative on purpose


@pytest.mark.parametrize("loss", [losses.vicreg_loss, losses.barlow_twins_loss])
def test_named_tuples_refuse_arithmetic(loss):
    terms = jax.jit(loss)(Z, Z)
    for operation in (lambda: terms + terms, lambda: 2 * terms, lambda: terms * 2, lambda: sum([terms])):
        with raises(TypeError, f"{type(terms).__name__} must not be added or multiplied", "use its .loss"):
            operation()


def test_errors_are_raised_while_tracing():
    with raises(ValueError, "z_b", "same shape as z_a"):
        jax.jit(losses.vicreg_loss).eval_shape(Z, Z.T)


def embeddings(loss):
    return np.random.default_rng(0).uniform(-1, 1, size=(len(names(loss)), 5, 8))


@partial(jax.jit, static_argnums=0)
def value_and_gradients(loss, *inputs):
    """The result, and the gradients of its first scalar."""

    def first_scalar(*inputs):
        result = loss(*inputs)
        return jax.tree.leaves(result)[0], result

    gradients, result = jax.grad(first_scalar, argnums=range(len(inputs)), has_aux=True)(*inputs)
    return jax.tree.leaves(result), gradients


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [
        # The files of the other losses test one 16-bit dtype each.
        *((loss, jnp.float16) for loss in (losses.barlow_twins_loss, losses.byol_loss, losses.triplet_loss)),
        *(
            pytest.param(loss, dtype, marks=pytest.mark.slow)
            for loss in LOSSES
            for dtype in (jnp.float16, jnp.bfloat16)
        ),
        *((loss, jnp.float8_e4m3fn) for loss in (losses.vicreg_loss, losses.simsiam_loss)),
        *(
            pytest.param(loss, dtype, marks=pytest.mark.slow)
            for loss in LOSSES
            for dtype in (jnp.float8_e4m3fn, jnp.float8_e5m2)
        ),
    ],
)
def test_16_bit_inputs_have_the_float32_result(loss, dtype):
    """Values in float32, gradients in the inputs' dtype; also near the dtype's maximum, whose square overflows."""
    for scale in (1, min(6.5e4, 0.9 * float(jnp.finfo(dtype).max))):
        inputs = [jnp.asarray(scale * z, dtype) for z in embeddings(loss)]
        result, gradients = value_and_gradients(loss, *inputs)
        expected, expected_gradients = value_and_gradients(loss, *(z.astype(jnp.float32) for z in inputs))
        assert all(np.all(np.isfinite(x)) for x in result)
        result, expected = ([x for x in leaves if x.shape == ()] for leaves in (result, expected))  # without a state
        assert all(scalar.dtype == jnp.float32 for scalar in result)
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        for actual, gradient in zip(gradients, expected_gradients, strict=True):
            assert actual.dtype == dtype
            precision = float(jnp.finfo(dtype).eps)
            rounded = gradient.astype(dtype).astype(jnp.float32)  # infinite where float16 overflows
            absolute = max(1e-6 * np.abs(gradient).max(), float(jnp.finfo(dtype).smallest_subnormal))
            np.testing.assert_allclose(actual.astype(jnp.float32), rounded, rtol=precision, atol=absolute)


@pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, marks=quick(loss)) for loss in LOSSES if len(names(loss)) > 1],
)
@pytest.mark.parametrize(
    ("narrow", "wide"),
    [(jnp.float32, jnp.float64), pytest.param(jnp.bfloat16, jnp.float32, marks=pytest.mark.slow)],
)
def test_mixed_dtypes_are_promoted_to_the_widest(loss, narrow, wide):
    with jax.enable_x64(True):
        *others, last = (jnp.asarray(z, narrow) for z in embeddings(loss))
        compiled = jax.jit(loss)
        actual, expected = (
            [x for x in jax.tree.leaves(compiled(*inputs)) if x.shape == ()]
            for inputs in ((*others, last.astype(wide)), [z.astype(wide) for z in (*others, last)])
        )
        assert all(scalar.dtype == wide for scalar in actual)
        np.testing.assert_allclose(actual, expected, rtol=10 * float(jnp.finfo(wide).eps))
