"""Overrides of config fields on the command line: `--config.SECTION.FIELD=VALUE`. The last one of a field counts."""

import re
from collections.abc import Iterable
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags.tuple_parser import TupleParser

from vicreg_jax.config.fields import Field, Table
from vicreg_jax.config.reading import closest_field, flatten
from vicreg_jax.config.rules import TEXT
from vicreg_jax.runtime.errors import InputError

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


class _TextOrTupleParser(TupleParser):
    """A tuple if it is written as one."""

    def parse(self, argument: str) -> Any:
        return super().parse(argument) if argument.startswith("(") else argument


_PARSERS = {
    bool: flags.BooleanParser(),
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    str: flags.ArgumentParser(),
    tuple: TupleParser(),
    object: _TextOrTupleParser(),
}


def apply_overrides(config: ConfigDict, table: Table, arguments: Iterable[str]) -> list[str]:
    """Sets the fields that the arguments override, and returns the other arguments.

    As with absl's flags, the value may be the next argument, and `--config.FLAG` and `--noconfig.FLAG` set a bool.

    Raises:
        InputError: naming the field of the first argument that is wrong: unknown, a section, or of another type.
    """
    others, remaining = [], iter(arguments)
    for argument in remaining:
        override = _OVERRIDE.fullmatch(argument)
        if override is None:
            others.append(argument)
            continue
        no, name, text = override.groups()
        field = _field(config, table, name)
        if text is None and field.rule.type is bool:
            text = str(no is None)
        elif no is not None:
            raise InputError(f"--noconfig.{name} must be an override of a bool; got {argument!r}")
        elif text is None:
            text = next(remaining, "--")
            if text.startswith("--"):
                raise InputError(f"config.{name} must be {field.words}; got no value")
        try:
            is_none = text == "None" and field.default is None
            value = None if is_none else _PARSERS[field.rule.type].parse(text)
        except (ValueError, TypeError, SyntaxError) as error:
            raise InputError(f"config.{name} must be {field.words}; got {text!r}") from error
        config.update_from_flattened_dict({name: value})
    return others


def _field(config: ConfigDict, table: Table, name: str) -> Field:
    """The field of that dotted name.

    Raises:
        InputError: there is no such field.
    """
    fields = flatten(config)
    if any(field.startswith(f"{name}.") for field in fields):
        raise InputError(f"config.{name} must be set field by field, --config.{name}.FIELD=VALUE; got all of it")
    if name not in fields:
        close = closest_field(config, name)
        hint = f" (did you mean config.{close}?)" if close else ""
        raise InputError(f"config.{name} must be a field; got no such field{hint}")
    return table.get(name, Field("", TEXT, "the task, which is in no table"))
