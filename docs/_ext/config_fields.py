"""The directive `config-fields`: the table of a section of the config, from `vicreg_jax.config.describe_fields`."""

from itertools import groupby

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles


def tables():
    """Lines of Markdown: a heading and a table of fields for each section of the config."""
    try:
        from vicreg_jax.config import describe_fields
    except ImportError:
        return

    for section, fields in groupby(describe_fields(), key=lambda field: field.name.rpartition(".")[0]):
        yield from ("", f"## {section or 'top level'}", "", "| field | default | must be | |", "|---|---|---|---|")
        for field in fields:
            cells = (f"`{field.name}`", f"`{field.default!r}`", str(field.rule), str(field.help))
            yield "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


class ConfigFields(SphinxDirective):
    """`{config-fields}` without arguments."""

    def run(self):
        """The parsed tables."""
        container = nodes.section()
        container.document = self.state.document
        nested_parse_with_titles(self.state, StringList(list(tables()), "vicreg_jax/config/fields.py"), container)
        return container.children


def setup(app):
    """Registers the directive."""
    app.add_directive("config-fields", ConfigFields)
    return {"parallel_read_safe": True}
