"""The numbers of a run: its facts, and the table of its accuracies and those of its baselines."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vicreg_jax.report.chart import number

# Classifiers of supervised runs, for people.
_CLASSIFIERS = {
    "finetune": "fine-tuned",
    "from_scratch": "from scratch",
    "linear": "encoder",
    "random_init": "random initialization",
    "raw_pixels": "raw pixels",
}
_NAMED_CLASSES = 3  # how many classes without training images are named
_BALANCE_DIFFERENCE = 0.005  # a balanced accuracy is shown where it differs from the accuracy by this


def facts(summary: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Show a card for each entry of the summary that has a title.

    Args:
        summary: as in `summary.json`; missing entries and None are skipped.
        titles: title by entry, in the order of the cards.
    """
    found = {title: summary[name] for name, title in titles.items() if summary.get(name) is not None}
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{title}</dt><dd>{escape(_text(fact))}</dd></div>" for title, fact in found.items())
        + "</dl>"
    )


def unseen_classes(names: Sequence[str]) -> str:
    """Say which classes have test images and no training images.

    Args:
        names: of the classes, at least one.
    """
    if len(names) == 1:
        return f"no training images of {names[0]}: its test images count as wrong"
    shown = ", ".join(names[:_NAMED_CLASSES]) + (", ..." if len(names) > _NAMED_CLASSES else "")
    return f"no training images of {len(names)} classes, {shown}: their test images count as wrong"


def trained_on(images: int, every: int) -> str:
    """Say which images of a large training split the classifiers that are trained take.

    Args:
        images: how many.
        every: 2: every second one.
    """
    return f"linear and few labels learn from {images:,} training images, one in {every}; kNN takes all"


def shows_balance(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a balanced accuracy says more than the accuracy: where classes are even, both are alike.

    Args:
        rows: the run and its baselines, as in `summary.json`.
    """
    return any(
        abs(row[f"{name}_balanced_accuracy"] - row[f"{name}_accuracy"]) >= _BALANCE_DIFFERENCE
        for row in rows
        for name in ("knn", "linear")
        if f"{name}_balanced_accuracy" in row
    )


def _text(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def accuracy_table(summary: Mapping[str, Any], baselines: Mapping[str, str]) -> str:
    """Show the accuracies of the run and its baselines, below one sentence with the linear accuracies.

    Args:
        summary: as in `summary.json`: `method`, `knn_accuracy`, `linear_accuracy`, `few_label_accuracy`,
            `few_label_std`, and the same per baseline under `baselines`; `shared_images` of the two splits;
            and `knn_balanced_accuracy`, `linear_balanced_accuracy`, `majority_accuracy`, `unseen_classes`;
            `trained_on` of a large split.
        baselines: title by baseline; one without a title is shown by its name.
    """
    if summary.get("linear_accuracy") is None:
        return '<p class="muted">No accuracies: they need labels in both splits of the evaluation.</p>'
    rows = {str(summary.get("method", "this run")): summary}
    rows |= {baselines.get(name, name): row for name, row in summary.get("baselines", {}).items()}
    columns = {}
    for title, name in (("kNN", "knn"), ("Linear", "linear")):
        columns[title] = _column(rows, f"{name}_accuracy")
        if shows_balance(rows.values()):
            columns[f"{title}, balanced"] = _column(rows, f"{name}_balanced_accuracy")
    for count in summary.get("few_label_accuracy", {}):
        title = f"{count} label{'s' if count != '1' else ''} per class"
        columns[title] = _column(rows, "few_label_accuracy", "few_label_std", count)
    images = "training images" if summary.get("shared_images") else "the test split"
    caption = f"Accuracy on {images} at the last step, in percent; the best of each column is bold."
    if summary.get("few_label_accuracy"):
        caption += (
            " Few-label accuracies are the mean ± standard deviation over random draws of the labeled images, the same"
            " draws in every row."
        )
    if shows_balance(rows.values()):
        caption += (
            " Balanced accuracies are means over the classes. Always predicting the most frequent training class gives"
            f" {100 * summary['majority_accuracy']:.1f}."
        )
    sentences = [trained_on(**summary["trained_on"])] if summary.get("trained_on") else []
    sentences += [unseen_classes(summary["unseen_classes"])] if summary.get("unseen_classes") else []
    caption += "".join(f" {escape(sentence[0].upper() + sentence[1:])}." for sentence in sentences)
    return f'<p class="verdict">{escape(_linear_accuracies(rows))}</p>' + _table("Features", rows, columns, caption)


def classifier_rows(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name the classifiers of a supervised run for people: the run's own first, then the baselines.

    Args:
        summary: as in `summary.json` of the tasks `finetune` and `linear`.
    """
    rows = {summary["method"]: summary, **summary["baselines"]}
    return {_CLASSIFIERS.get(name, name): row for name, row in rows.items()}


def classifier_table(summary: Mapping[str, Any]) -> str:
    """Show top-1 and top-5 accuracy of the run's classifier and of its baselines, below one sentence with the first.

    Args:
        summary: as for `classifier_rows`.
    """
    rows = classifier_rows(summary)
    names = {"accuracy": "Top-1", "top5_accuracy": "Top-5"}
    columns = {title: _column(rows, name) for name, title in names.items() if summary[name] is not None}
    if "learning_rate" in summary:
        columns["Learning rate"] = [f"<td>{number(row['learning_rate'])}</td>" for row in rows.values()]
    images = "training images" if summary["shared_images"] else "the test split"
    caption = f"Accuracy on {images} at the last step, in percent; the best of each column is bold."
    if summary.get("validation_labels"):
        caption += f" Each learning rate was chosen on {summary['validation_labels']} held-out training images."
    (_, run), *baselines = [(name, f"{100 * row['accuracy']:.1f}%") for name, row in rows.items()]
    others = ", ".join(f"{name} {accuracy}" for name, accuracy in baselines)
    verdict = f"Accuracy with {summary['train_labels']} labels: {run}" + (f" ({others})." if others else ".")
    return f'<p class="verdict">{escape(verdict)}</p>' + _table("Network", rows, columns, caption)


def _linear_accuracies(rows: Mapping[str, Mapping[str, Any]]) -> str:
    linear = {name: row.get("linear_accuracy") for name, row in rows.items()}
    (_, run), *baselines = [(name, f"{100 * value:.1f}%") for name, value in linear.items() if value is not None]
    others = ", ".join(f"{name} {accuracy}" for name, accuracy in baselines)
    return f"Linear accuracy on frozen features: {run}" + (f" ({others})." if others else ".")


def _table(corner: str, rows: Iterable[str], columns: Mapping[str, Sequence[str]], caption: str) -> str:
    """A table of cells by column; the first row is the run's own. The caption is HTML."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in columns)
    body = "".join(
        f'<tr{" class=run" if index == 0 else ""}><th scope="row">{escape(name)}</th>'
        + "".join(column[index] for column in columns.values())
        + "</tr>"
        for index, name in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table class="results"><caption>{caption}</caption>'
        f'<thead><tr><th scope="col">{corner}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _column(
    rows: Mapping[str, Mapping[str, Any]], name: str, spread: str | None = None, key: str | None = None
) -> list[str]:
    """The cells of one accuracy, one per row of the table."""

    def pick(row: Mapping[str, Any], field_name: str) -> float | None:
        value = row.get(field_name)
        return value.get(key) if key is not None and value is not None else value

    values = [pick(row, name) for row in rows.values()]
    best = max((value for value in values if value is not None), default=None)
    cells = []
    for row, value in zip(rows.values(), values, strict=True):
        deviation = None if spread is None else pick(row, spread)
        text = "-" if value is None else f"{100 * value:.1f}"
        text += "" if deviation is None else f" <small>± {100 * deviation:.1f}</small>"
        cells.append(f"<td{' class=best' if value is not None and value == best else ''}>{text}</td>")
    return cells
