"""Class names of datasets whose labels are numbers."""

from collections.abc import Iterable, Sequence

import numpy as np

from vicreg_jax.data.collection import NO_LABEL

_MAX_CLASSES = 2**24


def class_names(labels: Iterable[np.ndarray], names: Sequence[str] | None = None) -> tuple[str, ...] | None:
    """The name of each class: as given, else its number.

    Args:
        labels: integers of each split, `NO_LABEL` for an unlabeled image.
        names: of the classes.

    Returns:
        One for each number up to the largest label; None if every image is unlabeled.

    Raises:
        ValueError: a label is negative or very large, or has no name.
    """
    parts = [part for part in labels if len(part)]
    low = min((int(part.min()) for part in parts), default=NO_LABEL)
    high = max((int(part.max()) for part in parts), default=NO_LABEL)
    if low < NO_LABEL or high >= _MAX_CLASSES:
        wrong = low if low < NO_LABEL else high
        raise ValueError(f"manual_dir must hold labels from 0 to {_MAX_CLASSES - 1}, or -1 (unlabeled); got {wrong}")
    if high == NO_LABEL:
        return None
    if names is None:
        return tuple(map(str, range(high + 1)))
    if len(names) <= high:
        raise ValueError(f"manual_dir must hold a name for every class; got {len(names)} names, but the label {high}")
    return tuple(names)
