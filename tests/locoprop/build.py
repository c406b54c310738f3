"""Builds LocoProp from keyword arguments and fields of its options alike."""

from dataclasses import fields

from vicreg_jax.locoprop import LocoPropOptions, locoprop

OPTIONS = {field.name for field in fields(LocoPropOptions)}


def build(model, loss, **settings):
    """`locoprop(model, loss, options, ...)`."""
    options = LocoPropOptions(**{name: value for name, value in settings.items() if name in OPTIONS})
    return locoprop(model, loss, options, **{name: value for name, value in settings.items() if name not in OPTIONS})
