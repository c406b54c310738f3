"""Tables over seeds from the runs of an experiment, as JSON and as Markdown."""

import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Table = dict[str, dict[str, dict[str, float]]]  # row -> measure -> mean, least, most

MEASURES: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "accuracy": ("accuracy", lambda row: row.get("accuracy")),
    "knn": ("kNN", lambda row: row.get("knn_accuracy")),
    "linear": ("linear", lambda row: row.get("linear_accuracy")),
    "five_labels": ("5 labels per class", lambda row: row.get("few_label_accuracy", {}).get("5")),
    "effective_rank": ("effective rank", lambda row: row.get("effective_rank")),
    "embedding_std": ("embedding std", lambda row: row.get("embedding_std")),
    "seconds": ("seconds", lambda row: row.get("seconds")),
}


def over_seeds(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Mean, minimum and maximum of each measure in the rows."""
    result = {}
    for name, (_, read) in MEASURES.items():
        values = [value for row in rows if (value := read(row)) is not None]
        if values:
            result[name] = {"mean": statistics.mean(values), "least": min(values), "most": max(values)}
    return result


def grouped(results: dict[str, Row], label: str) -> dict[Any, list[Row]]:
    """Groups rows by the value of a label, in the order of the runs."""
    groups: dict[Any, list[Row]] = {}
    for row in results.values():
        groups.setdefault(row["labels"][label], []).append(row)
    return groups


def add_table(output: Path, table: Any) -> None:
    """Adds the table over seeds to the experiment's JSON file."""
    content = json.loads(output.read_text())
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps(content | {"table": table}, indent=1) + "\n")
    os.replace(partial, output)


def markdown(table: Table, measures: Sequence[str]) -> str:
    """A Markdown table of means, with minimum and maximum in parentheses."""
    lines = ["| | " + " | ".join(MEASURES[name][0] for name in measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, row in table.items():
        cells = [_cell(measure, row[measure]) if measure in row else "" for measure in measures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(measure: str, value: dict[str, float]) -> str:
    digits = {"effective_rank": 1, "embedding_std": 3, "seconds": 0}.get(measure, 3)
    mean, least, most = (f"{value[name]:.{digits}f}" for name in ("mean", "least", "most"))
    return mean if least == most else f"{mean} ({least} to {most})"
