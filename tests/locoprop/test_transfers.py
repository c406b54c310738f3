"""Transfer functions are detected, however they are written; unknown ones are reported."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.locoprop.build import build

SHAPE = jax.ShapeDtypeStruct((4, 6), jnp.float32)


def layers(model, inputs=SHAPE, **options):
    return build(model, lambda outputs, _: jnp.sum(outputs), **options).layers((inputs, inputs))


def between(function, dtype=jnp.float32):
    return nn.Sequential([nn.Dense(6, dtype=dtype), function, nn.Dense(3)])


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("transfer", "function"),
    [
        ("tanh", nn.tanh),
        ("tanh", lambda a: 2 * jnp.tanh(a) + 1),
        ("tanh", lambda a: jnp.tanh(a).reshape(2, -1).reshape(a.shape)),
        ("tanh", lambda a: 1 - 2 / (jnp.exp(2 * a) + 1)),
        ("sigmoid", nn.sigmoid),
        ("softmax", nn.softmax),
        ("softmax", lambda a: jnp.exp(nn.log_softmax(a))),
        ("relu", nn.relu),
        ("relu", lambda a: jnp.where(a > 0, a, 0)),
        ("leaky_relu", nn.leaky_relu),
        ("identity", lambda a: a),
        ("identity", lambda a: (a / 3).T.T + 1),
    ],
)
def test_detected(transfer, function, dtype):
    assert [layer.transfer for layer in layers(between(function, dtype))] == [transfer, "identity"]


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "function",
    [
        nn.gelu,
        nn.silu,
        nn.elu,
        nn.softplus,
        nn.hard_tanh,
        nn.hard_sigmoid,
        nn.log_softmax,
        lambda a: 1.7 * jnp.tanh(2 / 3 * a),
        lambda a: a + jnp.tanh(a),
        lambda a: nn.leaky_relu(a, 0.2),
        lambda a: nn.softmax(a, axis=0),
        lambda a: (a - a.mean(0)) / a.std(0),
        lambda a: nn.max_pool(a[None], (2,), (2,))[0],
    ],
)
def test_unknown_function_is_reported(function, dtype):
    with pytest.raises(ValueError, match=r"transfers must state what follows layers_0:.*\{'layers_0': 'identity'\}"):
        layers(between(function, dtype))


def test_unknown_function_can_be_stated():
    model = between(nn.gelu)
    assert layers(model, transfers={"layers_0": "relu"})[0].transfer == "relu"
    assert layers(model, variant="s")[0].transfer == "identity"


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.tanh(nn.Dense(6)(x))
        hidden = nn.relu(hidden + nn.Dense(6)(hidden))
        hidden = hidden * nn.sigmoid(nn.Dense(6)(hidden))
        return {"logits": nn.Dense(2)(hidden)[:, None], "code": hidden}


def test_branches_and_gates():
    """A pre-activation that is added to another array has no transfer function of its own."""
    found = layers(Residual(), output_transfer="softmax")
    assert [layer.transfer for layer in found] == ["tanh", "identity", "sigmoid", "softmax"]
    assert [layer.name for layer in found] == ["Dense_0", "Dense_1", "Dense_2", "Dense_3"]


def test_transfer_function_inside_the_output_is_detected():
    model = nn.Sequential([nn.Dense(3), nn.sigmoid])
    assert [layer.transfer for layer in layers(model)] == ["sigmoid"]
    with pytest.raises(ValueError, match=r"output_transfer must be 'identity'.*got 'sigmoid'"):
        layers(model, output_transfer="sigmoid")


def test_wrong_statements():
    model = between(nn.tanh)
    with pytest.raises(ValueError, match=r"transfers must name layers among layers_0, layers_2; got Dense_0"):
        layers(model, transfers={"Dense_0": "tanh"})
    with pytest.raises(ValueError, match=r"transfers\['layers_0'\] must be one of identity, .*; got 'gelu'"):
        layers(model, transfers={"layers_0": "gelu"})
    with pytest.raises(ValueError, match="output_transfer must be one of"):
        layers(model, output_transfer="softplus")
