"""MoCo over several steps against the official code's order of operations, in float64 NumPy."""

import jax
import numpy as np
import pytest

from vicreg_jax.methods import MoCo

BATCH, INPUTS, DIM, TEMPERATURE, MOMENTUM, RATE = 4, 5, 3, 0.3, 0.8, 0.5
pytestmark = pytest.mark.usefixtures("float64")


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def direction(kernel, inputs, keys, queue):
    """The loss of one direction, and its gradient with respect to the queries' matrix."""
    z = inputs @ kernel
    query = unit(z)
    candidates = np.concatenate([keys[:, None], np.broadcast_to(queue, (len(keys), *queue.shape))], axis=1)
    exponentials = np.exp(np.einsum("nd,nkd->nk", query, candidates) / TEMPERATURE)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = -np.mean(np.log(probabilities[:, 0]))
    by_query = (np.einsum("nk,nkd->nd", probabilities, candidates) - keys) / TEMPERATURE / len(query)
    along = np.sum(by_query * query, axis=1, keepdims=True) * query
    return loss, inputs.T @ ((by_query - along) / np.linalg.norm(z, axis=1, keepdims=True))


def official_steps(kernel, queue, pairs, symmetric):
    """Queries, EMA update of the target with the current parameters, keys, logits, queue, update."""
    target, queue, position = kernel.copy(), queue.copy(), 0
    for pair in pairs:
        target = MOMENTUM * target + (1 - MOMENTUM) * kernel
        loss, slope, keys = 0, 0, []
        for query, key in ((0, 1), (1, 0))[: 2 if symmetric else 1]:
            keys.append(unit(pair[key] @ target))
            direction_loss, direction_slope = direction(kernel, pair[query], keys[-1], queue)
            loss, slope = loss + direction_loss, slope + direction_slope
        for row in np.concatenate(keys):
            queue[position] = row
            position = (position + 1) % len(queue)
        kernel = kernel - RATE * slope
        yield loss, slope, kernel, target, queue.copy(), position


@pytest.mark.parametrize(("symmetric", "queue_size"), [pytest.param(False, 8, marks=pytest.mark.slow), (True, 16)])
def test_five_steps_match_the_official_code(linear, symmetric, queue_size):
    method = MoCo(
        linear(DIM),
        linear(DIM),
        temperature=TEMPERATURE,
        queue_size=queue_size,
        momentum=MOMENTUM,
        final_momentum=MOMENTUM,
        symmetric=symmetric,
    )
    method.check_batch_size(BATCH)
    pairs = np.random.default_rng(0).normal(size=(5, 2, BATCH, INPUTS))
    params, stats, extra_state = jax.jit(method.init)(jax.random.key(0), tuple(pairs[0]))
    # The head is not trained here: a single matrix is.
    params["head"] = extra_state["target_params"]["head"] = {"kernel": np.eye(DIM)}
    queue = np.array(extra_state["queue"])
    assert queue.shape == (queue_size, DIM)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-12)
    assert np.linalg.matrix_rank(queue) == DIM
    assert extra_state["queue_position"] == 0

    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    expected_steps = official_steps(np.array(params["backbone"]["kernel"]), queue, pairs, symmetric)
    previous_target = extra_state["target_params"]["backbone"]["kernel"]
    for index, (pair, expected) in enumerate(zip(pairs, expected_steps, strict=True)):
        (loss, outputs), slope = step(params, stats, extra_state, tuple(pair), jax.random.key(index))
        params["backbone"] = {"kernel": params["backbone"]["kernel"] - RATE * slope["backbone"]["kernel"]}
        extra_state = method.after_update(params, outputs.extra_state, index / 5)
        # The keys of this step come from the target after the last update.
        ours = (
            loss,
            slope["backbone"]["kernel"],
            params["backbone"]["kernel"],
            previous_target,
            extra_state["queue"],
            extra_state["queue_position"],
        )
        for a, e in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12)
        previous_target = extra_state["target_params"]["backbone"]["kernel"]
    assert extra_state["queue_position"] == BATCH * (2 if symmetric else 1)  # the queue holds the keys of two steps


@pytest.mark.slow
def test_queues_of_different_keys_differ(linear):
    method, view = MoCo(linear(DIM), linear(DIM), queue_size=8), np.ones((1, INPUTS))
    queues = [method.init(jax.random.key(seed), (view, view)).extra_state["queue"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(queues[0], queues[1])
    assert np.abs(queues[0] - queues[2]).min() > 0
