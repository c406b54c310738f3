"""A linear classifier as a pytree: `kernel [features, classes]` and `bias [classes]`, float32."""

import jax
import jax.numpy as jnp
import optax

Classifier = dict[str, jax.Array]

_INITIAL_STD = 0.01


def init_classifier(key: jax.Array, features: int, classes: int) -> Classifier:
    """A kernel with normal entries of standard deviation 0.01, and no bias.

    Source: facebookresearch/vicreg `evaluate.py`, lines 151-153.
    """
    kernel = _INITIAL_STD * jax.random.normal(key, (features, classes), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(classes, jnp.float32)}


def logits_of(classifier: Classifier, features: jax.Array) -> jax.Array:
    """Logits `[batch, classes]` of features `[batch, features]`."""
    return features @ classifier["kernel"] + classifier["bias"]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean cross-entropy and the accuracy over the labeled rows of the global batch.

    Args:
        logits: `[batch, classes]`.
        labels: `[batch]` int32; rows with label -1 are unlabeled and do not count.

    Returns:
        Two scalars; 0 without a labeled row.
    """
    weights = (labels >= 0) / jnp.maximum(jnp.sum(labels >= 0), 1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(weights * losses), jnp.sum(weights * (jnp.argmax(logits, axis=1) == labels))
