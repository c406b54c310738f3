"""Top-1 and top-5 accuracy of a classifier's logits."""

import jax
import jax.numpy as jnp
import numpy as np


def label_ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Count the other classes whose logit is not below that of the label.

    A prediction is among the top k where its rank is below k. Equal logits count against the label, and so does NaN.

    Args:
        logits: `[..., classes]`, any floating dtype.
        labels: integers `[...]` from 0 to classes - 1.

    Returns:
        int32 `[...]`, from 0 to classes - 1.

    Example:
        >>> label_ranks(jnp.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), jnp.array([2, 0])).tolist()
        [1, 1]
    """
    of_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return jnp.sum(~(logits < of_label), axis=-1, dtype=jnp.int32) - 1


def top_k_accuracies(ranks: np.ndarray, num_classes: int) -> dict[str, float | None]:
    """Compute the fractions of images that are classified correctly.

    Args:
        ranks: of the labels, `[images]`; see `label_ranks`.
        num_classes: number of classes.

    Returns:
        `accuracy`, and `top5_accuracy`: None with five classes or fewer, where it is 1 for every classifier.
    """
    top5 = float(np.mean(ranks < 5)) if num_classes > 5 else None
    return {"accuracy": float(np.mean(ranks < 1)), "top5_accuracy": top5}
