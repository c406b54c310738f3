"""Every public function under JAX's strict modes."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax import locoprop as room
from vicreg_jax.locoprop import Autoencoder, LocoPropOptions, backpropagation, locoprop

pytestmark = pytest.mark.usefixtures("strict_modes")

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.random((3, 4), np.float32)
A, T, KERNEL = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((3, 4), (3, 4), (4, 2)))
MODEL = Autoencoder(widths=(3,), code=2)


def solution(inputs, kernel, gradient):
    return room.squared_solution(inputs, kernel, gradient, activation_rate=2.0, step_size=0.3)


def train(training, batch=(ROWS, ROWS)):
    """Two steps, the second from the state of the first."""
    state = training.init(jax.random.key(1), batch)
    for _ in range(2):
        state, _ = training.step(state, batch)


def update(optimizer):
    optimizer.update(ROWS, optimizer.init(ROWS), ROWS)


# Functions of arrays, with arrays to differentiate them at.
DIFFERENTIABLE = {
    "reconstruction_loss": (room.reconstruction_loss, A, ROWS),
    "reconstruction_loss_bfloat16": (room.reconstruction_loss, A.astype(jnp.bfloat16), ROWS),
    "squared_solution": (solution, ROWS, KERNEL.astype(jnp.bfloat16), A[:, :2]),
    "squared_solution_of_many_rows": (solution, np.tile(ROWS, (2, 1)), KERNEL, np.tile(A[:, :2], (2, 1))),
    **{
        f"matching_loss_{name}": (lambda a, t, name=name: room.matching_loss(a, t, name), A.astype(jnp.bfloat16), T)
        for name in room.TRANSFERS
    },
}
OTHERS = {
    "backpropagation": lambda: train(
        backpropagation(MODEL, room.reconstruction_loss, optimizer=room.official_optimizer, learning_rate=1e-3)
    ),
    "create_optimizer": lambda: update(room.create_optimizer("momentum")(0.1)),
    "glorot_bias": lambda: room.glorot_bias(jax.random.key(0), (5,)),
    "linear_to_quarter": lambda: room.linear_to_quarter(1, 4),
    "local_flops": lambda: room.local_flops(1, 2, 3, 4),
    "locoprop": lambda: train(
        locoprop(
            MODEL,
            room.reconstruction_loss,
            LocoPropOptions(local_steps=2, output_transfer="sigmoid"),
            learning_rate=room.official_learning_rate(1),
        )
    ),
    "official_learning_rate": lambda: room.official_learning_rate(3)(jnp.int32(7)),
    "official_optimizer": lambda: update(room.official_optimizer(jnp.float32(0.1))),
}


def test_every_public_function_has_a_case() -> None:
    functions = {name for name in room.__all__ if inspect.isfunction(getattr(room, name))}
    assert not [name for name in functions if not any(case.startswith(name) for case in {**DIFFERENTIABLE, **OTHERS})]


def value_and_gradients(name):
    function, *arrays = DIFFERENTIABLE[name]
    with_gradients = jax.value_and_grad(lambda *arrays: function(*arrays).sum(), argnums=range(len(arrays)))
    return with_gradients, [jnp.asarray(array) for array in arrays]


@pytest.mark.parametrize(
    "name", ["matching_loss_tanh", pytest.param("reconstruction_loss", marks=pytest.mark.slow), "squared_solution"]
)
def test_values_and_gradients_under_jit(name) -> None:
    with_gradients, arrays = value_and_gradients(name)
    jax.jit(with_gradients)(*arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_values_and_gradients_eagerly(name) -> None:
    with_gradients, arrays = value_and_gradients(name)
    with_gradients(*arrays)


SLOW = ("backpropagation", "create_optimizer", "locoprop")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in OTHERS])
def test_runs(name) -> None:
    OTHERS[name]()


def test_a_probe_may_leave_the_domain_of_a_function() -> None:
    """The logarithm is not detected; that is the error, not its infinity at zero."""
    model = nn.Sequential([nn.Dense(4), jnp.log])
    with pytest.raises(ValueError, match="no known transfer function"):
        locoprop(model, room.reconstruction_loss).layers((ROWS, ROWS))


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.LayerNorm()(nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(images)))
        return nn.Dense(4)(hidden.reshape(len(hidden), -1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:parameters without a local loss")
@pytest.mark.parametrize("form", ["gram", "plain"])
def test_convolutions_in_both_forms(form) -> None:
    options = LocoPropOptions("s", local_steps=2, local_form=form)
    images = RANDOM.random((3, 6, 6, 2), np.float32)
    train(locoprop(Convolutional(), room.reconstruction_loss, options), (images, ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["m", "s"])
def test_bfloat16(variant) -> None:
    model = nn.Sequential([nn.Dense(3, dtype=jnp.bfloat16), nn.tanh, nn.Dense(4, dtype=jnp.bfloat16)])
    train(locoprop(model, room.reconstruction_loss, LocoPropOptions(variant, local_steps=2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in room.OPTIMIZERS if name != "adam"])  # optax's power of a count
def test_optimizers(name) -> None:
    update(room.create_optimizer(name)(0.1))
