"""Base learning rates are what their sources say."""

import doctest

import pytest

from vicreg_jax.optim import barlow_twins_base_lr, byol_base_lr, simclr_base_lr, vicreg_base_lr, warmup_cosine
from vicreg_jax.optim import base_lr as base_lr_module


@pytest.mark.parametrize(
    ("batch_size", "epochs", "base_lr"),
    [
        (128, 100, 0.8),
        (256, 100, 0.5),
        (512, 100, 0.4),
        (1024, 100, 0.3),
        (2048, 100, 0.3),
        (2048, 1000, 0.2),
    ],
)
def test_vicregs(batch_size, epochs, base_lr):
    assert vicreg_base_lr(batch_size, epochs) == base_lr


def test_barlow_twins():
    table = {128: 0.7, 256: 0.4, 512: 0.3, 1024: 0.25, 2048: 0.2, 4096: 0.2}
    assert {batch_size: barlow_twins_base_lr(batch_size) for batch_size in table} == table
    with pytest.raises(ValueError, match=r"^batch_size is 64; taken are 128, 256, 512, 1024, 2048, 4096$"):
        barlow_twins_base_lr(64)


@pytest.mark.parametrize(("batch_size", "peak"), [(256, 1.2), (512, 1.69705627), (4096, 4.8)])
def test_simclrs_peak_is_of_the_root_of_the_batch(batch_size, peak):
    schedule = warmup_cosine(simclr_base_lr(batch_size), batch_size, 10, warmup_epochs=0, epochs=10)
    assert schedule(0) == pytest.approx(peak)


def test_byols():
    table = {40: 0.45, 100: 0.45, 300: 0.3, 1000: 0.2}
    assert {epochs: byol_base_lr(epochs) for epochs in table} == table
    with pytest.raises(ValueError, match=r"^epochs is 200; taken are 40, 100, 300, 1000$"):
        byol_base_lr(200)


def test_docstring_examples():
    result = doctest.testmod(base_lr_module)
    assert result.attempted > 0
    assert result.failed == 0
