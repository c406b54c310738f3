"""The page and its sections."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vicreg_jax.report.style import STYLE


def write_page(path: Path, page: str) -> None:
    """Write a page atomically."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(page.encode("utf-8", "backslashreplace"))  # a path may hold bytes that are not UTF-8
    unfinished.replace(path)


def render_page(
    title: str,
    introduction: str,
    sections: Mapping[str, tuple[str, str]],
    *,
    config: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    style: str = "",
) -> str:
    """Render a page.

    Args:
        title: title of the page; escaped here, like the warnings and the config.
        introduction: HTML below the title and the warnings.
        sections: heading and HTML by id, inserted as they are.
        config: every field, nested by section; None: of no single run.
        warnings: sentences that the reader must not miss.
        style: CSS of the sections, appended to the style sheet of all pages.

    Returns:
        The HTML document.
    """
    alarms = "".join(f'<p class="alarm" role="alert">{escape(warning)}</p>' for warning in warnings)
    body = "\n".join(
        f'<section id="{name}"><h2>{heading}</h2>{content}</section>' for name, (heading, content) in sections.items()
    )
    fields = ""
    if config is not None:
        lines = escape(_config_lines(config))
        fields = f'<details id="config"><summary>Config</summary><pre>{lines}</pre></details>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body><main>"
        f"<h1>{escape(title)}</h1>{alarms}{introduction}\n{body}\n"
        f"{fields}</main></body></html>\n"
    )


def _config_lines(config: Mapping[str, Any], prefix: str = "config") -> str:
    """One line per field, named as on the command line."""
    return "\n".join(
        _config_lines(value, f"{prefix}.{name}") if isinstance(value, Mapping) else f"{prefix}.{name} = {value!r}"
        for name, value in config.items()
    )
