import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["class_balance", "diagnostics", "few_label", "knn"])
def test_examples(module):
    results = doctest.testmod(importlib.import_module(f"vicreg_jax.evaluation.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
