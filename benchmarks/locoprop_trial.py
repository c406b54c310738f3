"""Trains the deep autoencoder with one method, and prints its losses and seconds as JSON.

    python -m benchmarks.locoprop_trial --method=m --rows=FILE.npz --epochs=3 --settings='{"learning_rate": 1e-5}'

Requires jax, flax and optax; the methods kfac and shampoo also require `kfac_jax` or `precondition`.
`benchmarks.locoprop` runs it in the environment that each method needs. All methods start from the same parameters and
see the same minibatches.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.locoprop import Autoencoder, LocoPropOptions, create_optimizer, locoprop, reconstruction_loss
from vicreg_jax.locoprop.backpropagation import backpropagation

BATCH = 1000
BACKPROPAGATION = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam")
METHODS = ("m", "s", *BACKPROPAGATION, "kfac", "shampoo")
MODEL = Autoencoder()

Rate = Callable[[Any], Any]


class Training(NamedTuple):
    """A training method: `init(key, rows) -> state`, `step(state, rows, key) -> state`, `params(state) -> params`."""

    init: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any], Any]
    params: Callable[[Any], Any]


def loss(params: Any, rows: jax.Array) -> jax.Array:
    """The reconstruction loss of a batch."""
    return reconstruction_loss(MODEL.apply({"params": params}, rows), rows)


def training(method: str, learning_rate: Rate, settings: dict[str, Any]) -> Training:
    """The method with these settings, which are arguments of `create_optimizer` or `LocoPropOptions`."""
    if method == "kfac":
        return _kfac(learning_rate, **settings)
    if method == "shampoo":
        return _shampoo(learning_rate, **settings)
    if method in BACKPROPAGATION:
        optimizer = create_optimizer(method, **settings)
        built = backpropagation(MODEL, reconstruction_loss, optimizer=optimizer, learning_rate=learning_rate)
    else:
        momentum = settings.pop("momentum", 0.999)
        built = locoprop(
            MODEL,
            reconstruction_loss,
            LocoPropOptions(variant=method, output_transfer="sigmoid", **settings),
            inner_optimizer=create_optimizer("rmsprop", momentum=momentum),
            learning_rate=learning_rate,
        )
    return Training(
        lambda key, rows: built.init(key, (rows, rows)),
        lambda state, rows, _: built.step(state, (rows, rows))[0],
        lambda state: state.params,
    )


def _kfac(learning_rate: Rate, *, momentum: float, damping: float) -> Training:
    import kfac_jax

    def registered_loss(params: Any, rows: jax.Array) -> jax.Array:
        logits = MODEL.apply({"params": params}, rows)
        kfac_jax.register_multi_bernoulli_predictive_distribution(logits, rows)
        return reconstruction_loss(logits, rows)

    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(registered_loss),
        l2_reg=0.0,
        value_func_has_aux=False,
        value_func_has_state=False,
        value_func_has_rng=False,
        use_adaptive_learning_rate=False,
        use_adaptive_momentum=False,
        use_adaptive_damping=False,
        learning_rate_schedule=learning_rate,
        momentum_schedule=lambda _: jnp.asarray(momentum),
        damping_schedule=lambda _: jnp.asarray(damping),
        inverse_update_period=5,  # as in kfac-jax's example of this network
        curvature_ema=0.95,
        num_burnin_steps=0,
        multi_device=False,
    )

    def init(key: jax.Array, rows: jax.Array) -> Any:
        params = MODEL.init(key, rows)["params"]
        return params, optimizer.init(params, key, rows)

    def step(state: Any, rows: jax.Array, key: jax.Array) -> Any:
        params, optimizer_state, _ = optimizer.step(*state, key, batch=rows)
        return params, optimizer_state

    return Training(init, step, lambda state: state[0])


def _shampoo(learning_rate: Rate, *, momentum: float, epsilon: float) -> Training:
    import optax

    jax.config.update("jax_enable_x64", True)  # it computes matrix roots in float64
    # It uses names that jax has removed.
    for name in ("tree_map", "tree_flatten", "tree_unflatten", "tree_leaves", "tree_structure"):
        setattr(jax, name, getattr(jax.tree_util, name))
    from precondition.distributed_shampoo import GraftingType, distributed_shampoo

    def optimizer(momentum: Any, epsilon: Any) -> Any:
        return distributed_shampoo(
            1.0,
            block_size=1024,
            beta1=momentum,
            beta2=0.99,
            matrix_epsilon=epsilon,
            graft_type=GraftingType.RMSPROP_NORMALIZED,
            start_preconditioning_step=5,
            preconditioning_compute_steps=20,
            eigh=True,  # cheaper on a CPU than its Newton iterations in float64
        )

    def init(key: jax.Array, rows: jax.Array) -> Any:
        params = MODEL.init(key, rows)["params"]
        return params, optimizer(momentum, epsilon).init(params), 0

    # Settings are arguments of the compiled step, so that all trials share one slow compilation.
    @jax.jit
    def update(params: Any, optimizer_state: Any, rows: jax.Array, rate: Any, momentum: Any, epsilon: Any) -> Any:
        gradient = jax.grad(loss)(params, rows)
        updates, optimizer_state = optimizer(momentum, epsilon).update(gradient, optimizer_state, params)
        return optax.apply_updates(params, jax.tree.map(lambda update: rate * update, updates)), optimizer_state

    def step(state: Any, rows: jax.Array, _: jax.Array) -> Any:
        params, optimizer_state, count = state
        settings = (jnp.float32(value) for value in (learning_rate(count), momentum, epsilon))
        return *update(params, optimizer_state, rows, *settings), count + 1

    return Training(init, step, lambda state: state[0])


def train(method: str, rows: dict[str, np.ndarray], *, seed: int, epochs: int, settings: dict[str, Any]) -> list[Any]:
    """One row per epoch: its number, the losses on all images of both splits, and the seconds of its steps."""
    images = {split: jnp.asarray(pixels, jnp.float32) / 255 for split, pixels in rows.items()}
    steps = len(images["train"]) // BATCH
    peak = settings.pop("learning_rate")

    def learning_rate(step: Any) -> jax.Array:
        # Linear warmup during the first epoch, then linear decay to 0.
        return peak * jnp.minimum((step + 1) / steps, (epochs * steps - step) / max(1, (epochs - 1) * steps))

    built = training(method, learning_rate, settings)
    key = jax.random.key(seed)
    state = built.init(key, images["train"][:BATCH])
    # Compile before timing: two steps, since some states come back with other types, on a copy, since K-FAC donates
    # its arguments.
    warm = jax.tree.map(jnp.copy, state)
    for _ in range(2):
        warm = built.step(warm, images["train"][:BATCH], key)
    jax.block_until_ready(built.params(warm))
    split_loss = jax.jit(lambda params, parts: jnp.mean(jax.lax.map(lambda part: loss(params, part), parts)))

    def losses() -> dict[str, float]:
        return {
            f"{split}_loss": float(split_loss(built.params(state), array.reshape(-1, BATCH, array.shape[1])))
            for split, array in images.items()
        }

    curve = [{"epoch": 0, **losses(), "seconds": 0.0}]
    orders = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = orders.permutation(len(images["train"]))[: steps * BATCH].reshape(steps, BATCH)
        start = time.perf_counter()
        for index, batch in enumerate(order):
            state = built.step(state, images["train"][batch], jax.random.fold_in(key, epoch * steps + index))
        jax.block_until_ready(built.params(state))
        seconds = time.perf_counter() - start
        curve.append({"epoch": epoch + 1, **losses(), "seconds": seconds})
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument(
        "--rows", required=True, help="npz file with uint8 `train` and `test` of shape [images, pixels]"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    arguments = parser.parse_args()
    rows = dict(np.load(arguments.rows))
    curve = train(arguments.method, rows, seed=arguments.seed, epochs=arguments.epochs, settings=arguments.settings)
    print(json.dumps(curve))


if __name__ == "__main__":
    main()
