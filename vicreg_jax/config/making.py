"""From the tables of fields to configs with every default."""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from vicreg_jax.config.fields import FINETUNE, LINEAR, PRETRAIN, SHARED, Field, Table
from vicreg_jax.config.rules import TEXT, Rule, rule_of
from vicreg_jax.methods import METHODS


def pretrain_table(method: str = "vicreg") -> Table:
    """Every field of a pretraining run with that method.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        close = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}{hint}")
    return SHARED | PRETRAIN | method_fields(method, METHODS[method])


def base_config(method: str = "vicreg") -> ConfigDict:
    """The config of a pretraining run with every default; a file of `configs/` states what differs.

    Args:
        method: the method whose fields the section `method` holds.

    Raises:
        ValueError: an unknown method.
    """
    return make_config("pretrain", pretrain_table(method))


def finetune_config() -> ConfigDict:
    """The config of a fine-tuning run with every default, which are the official ones for 10 % of the labels."""
    return make_config("finetune", FINETUNE)


def linear_config() -> ConfigDict:
    """The config of a linear evaluation with every default, which are the official ones."""
    return make_config("linear", LINEAR)


def method_fields(name: str, cls: type) -> Table:
    """The section `method`: the name, and the fields of the dataclass that have a positional default."""
    helps = _attributes(cls)
    table = {"method.name": Field(name, TEXT, "method; choose it by the config's argument")}
    for field in dataclasses.fields(cls):
        if not field.kw_only and field.default is not dataclasses.MISSING:
            rule = Rule(int, "an integer") if field.default is None else rule_of(field.default)
            table[f"method.{field.name}"] = Field(field.default, rule, helps.get(field.name, ""))
    return table


class _Section(ConfigDict):
    """A ConfigDict that takes NumPy's scalars for Python's."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def make_config(task: str, table: Table) -> ConfigDict:
    """A locked config with the defaults of a table."""
    config = _Section({"task": task})
    for name, field in table.items():
        section, _, last = name.rpartition(".")
        if section and section not in config:
            config[section] = _Section()
        owner = config[section] if section else config
        if field.default is None:
            owner[last] = placeholder(field.rule.type)
        elif field.rule.type is object:
            owner[last] = FieldReference(field.default, field_type=object)
        else:
            owner[last] = field.default
    return config.lock()


class FieldDescription(NamedTuple):
    """A row of the reference page."""

    name: str
    default: Any
    rule: str
    help: str


def describe_fields(table: Table | None = None) -> Iterator[FieldDescription]:
    """Every field of a table, by default of pretraining with VICReg, for `--help` and the reference page."""
    for name, field in (pretrain_table() if table is None else table).items():
        yield FieldDescription(name, field.default, field.words, field.help)


def _attributes(cls: type) -> dict[str, str]:
    """The first sentence on each attribute, from the `Attributes:` section of a class's docstring."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {2,4}\w)", "\n" + section.split("\n\n")[0]):
        names, _, text = entry.strip().partition(": ")
        sentence = re.split(r"[.;](?:\s|$)", " ".join(text.split()))[0]
        found |= {name.strip(): sentence.replace("`", "") for name in names.split(",")}
    return found
