"""The documentation site: `sphinx-build -W --keep-going -n docs build/site`."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from vicreg_jax import __version__  # noqa: E402

project = "vicreg_jax"
author = "The vicreg_jax maintainers"
release = version = __version__

extensions = [
    "config_fields",  # docs/_ext: the table of the config's fields
    "doctest_blocks",  # docs/_ext: code blocks without the empty line that doctest needs
    "myst_parser",
    "room_docstrings",  # docs/_ext: what autodoc shows of a room
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_ext", "_static"]

# Pages are Markdown; `#heading` links work as on GitHub.
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 4

# Docstrings are Google style. A single backtick is code, as in the rest of the project.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
python_display_short_literal_types = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style"), "Source", "Sources"]

# Names of other packages are not links: the build needs no network.
OTHERS = "collections|flax|jax|jaxlib|ml_collections|np|numpy|optax|orbax|os|pathlib|rich|typing"
nitpick_ignore_regex = [
    ("py:.*", rf"({OTHERS})(\..*)?"),
    ("py:class", r"vicreg_jax\.\w+\.\w+\.\w+"),  # types in signatures that their room does not export
]

html_theme = "furo"
html_title = f"vicreg_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
