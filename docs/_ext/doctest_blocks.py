"""Drops the empty line at the end of a code block, which doctest needs and a page does not."""

from docutils import nodes


def strip_end(app, doctree):
    """Strips the white space at the end of every code block."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():  # otherwise Sphinx would not highlight it
            block.rawsource = block.rawsource.rstrip()
        block[:] = [nodes.Text(block.astext().rstrip())]


def setup(app):
    """Registers the event handler."""
    app.connect("doctree-read", strip_end)
    return {"parallel_read_safe": True}
