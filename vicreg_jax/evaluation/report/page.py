"""The page and its sections."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from vicreg_jax.evaluation.report.accuracies import facts, results
from vicreg_jax.evaluation.report.content import ReportContent
from vicreg_jax.evaluation.report.curves import embedding_curves, training_curves
from vicreg_jax.evaluation.report.pictures import neighbour_pictures, view_pictures
from vicreg_jax.evaluation.report.style import STYLE


def write_report(path: Path, content: ReportContent) -> None:
    """Writes the page, whole or not at all."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(render_report(content).encode())
    unfinished.replace(path)


def render_report(content: ReportContent) -> str:
    """The page as a string; every text in it is escaped."""
    alarms = "".join(f'<p class="alarm" role="alert">{escape(warning)}</p>' for warning in content.warnings)
    sections = {
        "results": ("What it learned", results(content.summary)),
        "training": ("Training", training_curves(content.metrics)),
        "embeddings": ("Are the embeddings healthy?", embedding_curves(content)),
        "views": ("What the network saw", view_pictures(content.views)),
        "neighbours": ("Nearest neighbours", neighbour_pictures(content.neighbours, content.class_names)),
    }
    body = "\n".join(
        f'<section id="{name}"><h2>{title}</h2>{body}</section>' for name, (title, body) in sections.items()
    )
    config = f"<summary>Config</summary><pre>{escape(_config_lines(content.config))}</pre>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(content.title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f"<h1>{escape(content.title)}</h1>{alarms}{facts(content.summary)}\n{body}\n"
        f'<details id="config">{config}</details></main></body></html>\n'
    )


def _config_lines(config: Mapping[str, Any], prefix: str = "config") -> str:
    """One line a field, named as on the command line."""
    return "\n".join(
        _config_lines(value, f"{prefix}.{name}") if isinstance(value, Mapping) else f"{prefix}.{name} = {value!r}"
        for name, value in config.items()
    )
