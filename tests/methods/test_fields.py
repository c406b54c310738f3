"""Fields out of range are refused before anything is compiled, with a message that begins with the field's name."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from vicreg_jax.methods import METHODS
from vicreg_jax.models import Head

PARTS = (Head((6,)), Head((4,)))
TAKES_PREDICTOR = ["vicreg", "byol", "simsiam"]
TAKES_SECOND_BRANCH = ["vicreg", "barlow_twins", "simclr", "debiased", "triplet", "lejepa", "visreg", "corinfomax"]

# field -> the methods that have it
NOT_NEGATIVE = {
    "invariance_weight": ["vicreg", "corinfomax"],
    "variance_weight": ["vicreg", "byol", "simsiam"],
    "covariance_weight": ["vicreg", "byol", "simsiam"],
    "redundancy_weight": ["barlow_twins"],
    "margin": ["triplet"],
}
POSITIVE = {
    "target_std": ["vicreg", "byol", "simsiam"],
    "epsilon": ["vicreg", "byol", "simsiam", "barlow_twins", "corinfomax"],
    "loss_scale": ["barlow_twins"],
    "temperature": ["simclr", "debiased", "moco"],
    "queue_size": ["moco"],
    "batch_norm_groups": ["moco"],
    "negatives": ["triplet"],
    "slices": ["lejepa", "visreg"],
    "t_max": ["lejepa"],
}
BELOW_ONE = {"momentum": ["moco", "byol"], "positive_prior": ["debiased"], "decay": ["corinfomax"]}
FRACTION = {"final_momentum": ["moco", "byol"], "sigreg_weight": ["lejepa"], "visreg_weight": ["visreg"]}
ODD = {"knots": ["lejepa"]}
NEVER = (-0.1, -3, math.nan, math.inf, -math.inf)

RULES = [
    (NOT_NEGATIVE, (0, 0.5), NEVER, "a number of at least 0"),
    (POSITIVE, (1, 3), (0, *NEVER), "a number above 0"),
    (BELOW_ONE, (0, 0.9), (1.0, 1.5, *NEVER), "a number from 0 to below 1"),
    (FRACTION, (0, 1), (1.5, *NEVER), "a number from 0 to 1"),
    (ODD, (3, 17), (1, 16, *NEVER), "an odd number of at least 3"),
]


@pytest.mark.parametrize(("methods_of", "good", "bad", "rule"), RULES)
def test_numbers_out_of_range_are_refused(methods_of, good, bad, rule):
    for field, names in methods_of.items():
        for name in names:
            for value in good:
                assert getattr(METHODS[name](*PARTS, **{field: value}), field) == value
            for value in bad:
                with pytest.raises(ValueError, match=f"^{re.escape(f'{field} must be {rule}; got {value!r}')}$"):
                    METHODS[name](*PARTS, **{field: value})


def test_every_number_among_the_fields_has_a_rule():
    ruled = {(name, field) for methods_of, *_ in RULES for field, names in methods_of.items() for name in names}
    fields = {
        (name, field.name)
        for name, method in METHODS.items()
        for field in method.__dataclass_fields__.values()
        if not field.kw_only and isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert fields == ruled


@pytest.mark.parametrize("name", METHODS)
def test_parts_that_a_method_does_not_use_are_refused(name):
    if name in TAKES_PREDICTOR:
        assert METHODS[name](*PARTS, predictor=Head((4,))).predictor == Head((4,))
    else:
        with pytest.raises(ValueError, match=r"^predictor must be None for .*; got Head$"):
            METHODS[name](*PARTS, predictor=Head((4,)))
    for part in ("second_backbone", "second_head"):
        if name in TAKES_SECOND_BRANCH:
            assert getattr(METHODS[name](*PARTS, **{part: Head((4,))}), part) == Head((4,))
        else:
            with pytest.raises(ValueError, match=f"^{part} must be None for .*; got Head$"):
                METHODS[name](*PARTS, **{part: Head((4,))})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"second_head": Head((5,))}, "second_head must return embeddings of dimension 4, as the first head; got 5"),
        (
            {"second_backbone": Head((5,))},
            "second_backbone must return features of dimension 6, as the first backbone (both share the head); got 5",
        ),
        ({"predictor": Head((8, 3))}, "predictor must return predictions of dimension 4, as the head; got 3"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(parts, message):
    method = METHODS["vicreg"](*PARTS, **parts)
    view = jnp.zeros((1, 3))
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        jax.eval_shape(method.init, jax.random.key(0), (view, view))


@pytest.mark.parametrize(
    ("name", "fields", "good", "bad", "message"),
    [
        ("moco", {"queue_size": 24}, (8, 12, 24), (9, 16, 48), "queue_size must be a multiple of"),
        ("moco", {"queue_size": 24, "symmetric": True}, (4, 12), (8, 24), "queue_size must be a multiple of"),
        ("moco", {"queue_size": 24, "batch_norm_groups": 4}, (4, 12), (2, 6), "batch_norm_groups must divide"),
        ("vicreg", {"unbiased_covariance": True}, (4, 5), (2, 3), "unbiased_covariance must be False for"),
        ("triplet", {"negatives": 5}, (6, 7), (4, 5), "negatives must be below the batch size of"),
        ("vicreg", {}, (2, 3), (), ""),
        ("barlow_twins", {}, (2, 3), (), ""),
    ],
)
def test_batch_sizes_that_do_not_fit_are_refused(name, fields, good, bad, message):
    method = METHODS[name](*PARTS, **fields)
    for batch_size in good:
        method.check_batch_size(batch_size)
    for batch_size in bad:
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            method.check_batch_size(batch_size)
