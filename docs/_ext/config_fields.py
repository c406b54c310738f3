"""The directive `config-fields`: the table of a section of the config, from `vicreg_jax.config.describe_fields`."""

from itertools import groupby

from sphinx.util.docutils import SphinxDirective

from vicreg_jax.config import PRETRAIN, SHARED, describe_fields, pretrain_table
from vicreg_jax.methods import METHODS
from vicreg_jax.tasks.registry import TASKS

# A method of each task other than pretraining: a choice of its table.
OTHER_TASKS = {"finetune": ("finetune",), "linear": ("linear",), "smt": ("smt",), "locoprop": ("m", "adam")}


def tables(which):
    """Yields lines of Markdown: a heading and a table for each section of the config."""
    if which == "pretrain":
        fields = [field for field in describe_fields() if not field.name.startswith("method.")]
        # A section is spread over the table where tasks share a part of it.
        fields.sort(key=lambda field: field.name.rpartition(".")[0])
        for section, group in groupby(fields, key=lambda field: field.name.rpartition(".")[0]):
            yield from table(section or "top level", group)
    elif which == "methods":
        for name in METHODS:
            fields = describe_fields(pretrain_table(name))
            group = [field for field in fields if field.name.startswith("method.") and field.name != "method.name"]
            yield from table(f"method, for {name}", group)
    else:
        of_task = {}
        for method in OTHER_TASKS[which]:
            of_task |= TASKS[which].table(method)
        known = PRETRAIN | SHARED if which in ("finetune", "linear") else SHARED
        own = {name: field for name, field in of_task.items() if known.get(name) != field}
        yield from table(f"fields of {which}", describe_fields(own))


def table(title, fields):
    """Yields lines of Markdown: a heading, and a row for each field."""
    yield from ("", f"### {title}", "", "| field | default | must be | |", "|---|---|---|---|")
    for field in fields:
        cells = (f"`{field.name}`", f"`{field.default!r}`", field.rule, field.help)
        yield "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
    yield ""


class ConfigFields(SphinxDirective):
    """`{config-fields} pretrain`: every section but `method`; `methods`: that one, by method; or another task."""

    required_arguments = 1

    def run(self):
        """The parsed headings and tables."""
        text = "\n".join(tables(self.arguments[0]))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app):
    """Registers the directive."""
    app.add_directive("config-fields", ConfigFields)
    return {"parallel_read_safe": True}
