"""Random variables of a module, from its shapes alone."""

import numpy as np
from flax.traverse_util import unflatten_dict

from vicreg_jax.interop.layout import slots_of


def random_variables(model, inputs=3):
    """Variables with positive variances, and with no two tensors alike."""
    random = np.random.default_rng(0)

    def values(slot):
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(slot.shape), range(len(slot.shape)))
        array = random.standard_normal(slot.shape, dtype=np.float32)
        return np.ascontiguousarray((np.abs(array) + 0.5 if slot.path[-1] == "var" else array).transpose(axes))

    return unflatten_dict({slot.path: values(slot) for slot in slots_of(model, inputs) if slot.path})
