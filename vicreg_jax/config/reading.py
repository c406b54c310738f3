"""A config as a whole: flatten it, check it, write and read it as JSON, name its fields in errors."""

import copy
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config.fields import Table
from vicreg_jax.config.making import make_config
from vicreg_jax.runtime.errors import InputError


def flatten(tree: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The fields by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check_config(config: ConfigDict, table: Table) -> None:
    """Refuses the first field whose value breaks its rule.

    Raises:
        InputError: naming the field, its rule and its value.
    """
    for name, value in flatten(config).items():
        if name not in table or (value is None and table[name].default is None):
            continue
        field = table[name]
        if value is None or not field.rule.takes(value):
            hint = did_you_mean(value, field.rule.choices)
            raise InputError(f"config.{name} must be {field.words}; got {value!r}{hint}")


def did_you_mean(value: Any, choices: Collection[str]) -> str:
    """A hint with the closest choice, or an empty string."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def closest_field(config: ConfigDict, name: str) -> str | None:
    """The field whose dotted name, or last part, is closest to `name`."""
    names = list(flatten(config))
    by_last_part = {field.rsplit(".", 1)[-1]: field for field in names}
    close = difflib.get_close_matches(name, names, n=1) or [
        by_last_part[part] for part in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_last_part, n=1)
    ]
    return close[0] if close else None


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of the config with other values of some fields, by dotted name."""
    # `copy_and_resolve_references` would bind each field to the type that its value has now.
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(dict(changes))
    return changed


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON holds it: nested dictionaries, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(fields: Mapping[str, Any], table: Table) -> ConfigDict:
    """The inverse of `to_json`: lists become tuples, missing fields get their defaults.

    Raises:
        InputError: a field is unknown to this version, or has a value of another type.
    """
    config = make_config(fields.get("task", "pretrain"), table)
    for name, value in flatten(fields).items():
        try:
            config.update_from_flattened_dict({name: _tuples(value)})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            rule = table[name].words if name in table else "a field of this version of vicreg_jax"
            raise InputError(f"config.{name} must be {rule}; got {value!r}") from error
    return config


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@contextmanager
def from_section(section: str, **fields: str) -> Iterator[None]:
    """Puts the config field in front of what a library room says about its own argument.

    Args:
        section: the section whose fields have the names of the arguments.
        **fields: the whole field by argument, where it has another name, such as `split="data.train_split"`.

    Raises:
        InputError: for a ValueError or TypeError of the form `{argument} must be {rule}; got {value!r}`.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        argument = re.match(r"\w+", str(error))
        if argument is None or " must " not in str(error):
            raise
        field = fields.get(argument[0], f"{section}.{argument[0]}")
        raise InputError(f"config.{field}{str(error)[argument.end() :]}") from error
