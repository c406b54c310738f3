"""The config of an experiment: one table of fields per section, and how configs are checked, read and compared."""

from vicreg_jax.config.fields import FINETUNE, LINEAR, PRETRAIN, SHARED, Field, Table
from vicreg_jax.config.making import (
    base_config,
    describe_fields,
    finetune_config,
    linear_config,
    make_config,
    method_fields,
    pretrain_table,
)
from vicreg_jax.config.overrides import apply_overrides
from vicreg_jax.config.reading import (
    check_config,
    closest_field,
    did_you_mean,
    flatten,
    from_json,
    from_section,
    to_json,
    with_changes,
)
from vicreg_jax.config.resuming import Extension, differences, extended, run_identity

__all__ = [
    "FINETUNE",
    "LINEAR",
    "PRETRAIN",
    "SHARED",
    "Extension",
    "Field",
    "Table",
    "apply_overrides",
    "base_config",
    "check_config",
    "closest_field",
    "describe_fields",
    "did_you_mean",
    "differences",
    "extended",
    "finetune_config",
    "flatten",
    "from_json",
    "from_section",
    "linear_config",
    "make_config",
    "method_fields",
    "pretrain_table",
    "run_identity",
    "to_json",
    "with_changes",
]
