"""Datasets by name, and batches of them on the mesh. See docs/guides/data.md."""

from vicreg_jax.data.batch import Batch
from vicreg_jax.data.collection import UnreadableImagesError
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.data.identity import Identity, changed_facts, content_of, identify
from vicreg_jax.data.load import load_dataset, open_collection, open_split
from vicreg_jax.data.loader import evaluation_batches, is_resident, train_batches
from vicreg_jax.data.order import step_indices, steps_per_epoch
from vicreg_jax.data.subset import hold_out, labeled_subset
from vicreg_jax.data.value_range import to_uint8

__all__ = [
    "Batch",
    "Dataset",
    "Identity",
    "UnreadableImagesError",
    "changed_facts",
    "content_of",
    "evaluation_batches",
    "hold_out",
    "identify",
    "is_resident",
    "labeled_subset",
    "load_dataset",
    "open_collection",
    "open_split",
    "step_indices",
    "steps_per_epoch",
    "to_uint8",
    "train_batches",
]
