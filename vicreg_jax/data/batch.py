"""The type of a batch."""

import jax

Batch = dict[str, jax.Array]
"""One global batch, sharded over the devices along its first dimension.

image: uint8 `[batch, canvas, canvas, channels]`, the decoded images.
aspect_ratio: float32 `[batch]`, width / height of each image before it was stretched to the square canvas.
label: int32 `[batch]`, -1 for an unlabeled image.
mask: bool `[batch]`, False in the rows that pad the last batch; in evaluation batches only.
"""
