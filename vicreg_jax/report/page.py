"""The page and its sections."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vicreg_jax.report.accuracies import facts, results
from vicreg_jax.report.content import ReportContent
from vicreg_jax.report.curves import embedding_curves, training_curves
from vicreg_jax.report.pictures import neighbor_pictures, view_pictures
from vicreg_jax.report.style import STYLE


def write_report(path: Path, content: ReportContent) -> None:
    """Writes the report of a pretraining run, whole or not at all."""
    write_page(path, render_report(content))


def write_page(path: Path, page: str) -> None:
    """Writes a page, whole or not at all."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(page.encode())
    unfinished.replace(path)


def render_report(content: ReportContent) -> str:
    """The report of a pretraining run as a string; every text in it is escaped."""
    sections = {
        "results": ("What it learned", results(content.summary)),
        "training": ("Training", training_curves(content.metrics)),
        "embeddings": ("Are the embeddings healthy?", embedding_curves(content)),
        "views": ("What the network saw", view_pictures(content.views)),
        "neighbors": ("Nearest neighbors", neighbor_pictures(content.neighbors, content.class_names)),
    }
    return render_page(
        content.title, facts(content.summary), sections, config=content.config, warnings=content.warnings
    )


def render_page(
    title: str,
    introduction: str,
    sections: Mapping[str, tuple[str, str]],
    *,
    config: Mapping[str, Any],
    warnings: Sequence[str] = (),
    style: str = "",
) -> str:
    """A page as a string.

    Args:
      title: of the page; escaped here, as are the warnings and the config.
      introduction: HTML below the title and the warnings.
      sections: a title and HTML by id, both as they are to stand in the page.
      config: every field, nested by section.
      warnings: sentences that a person must not miss.
      style: what the sections need beyond the style sheet that all pages have.
    """
    alarms = "".join(f'<p class="alarm" role="alert">{escape(warning)}</p>' for warning in warnings)
    body = "\n".join(
        f'<section id="{name}"><h2>{heading}</h2>{content}</section>' for name, (heading, content) in sections.items()
    )
    fields = f"<summary>Config</summary><pre>{escape(_config_lines(config))}</pre>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body><main>"
        f"<h1>{escape(title)}</h1>{alarms}{introduction}\n{body}\n"
        f'<details id="config">{fields}</details></main></body></html>\n'
    )


def _config_lines(config: Mapping[str, Any], prefix: str = "config") -> str:
    """One line a field, named as on the command line."""
    return "\n".join(
        _config_lines(value, f"{prefix}.{name}") if isinstance(value, Mapping) else f"{prefix}.{name} = {value!r}"
        for name, value in config.items()
    )
