"""Results printed at the end of a run: the table of its stages, and which model is delivered."""

from collections.abc import Mapping, Sequence
from typing import Any

Metrics = Mapping[str, float]
NONE = "-"


def model_words(origin: Mapping[str, Any]) -> str:
    """Describe where a model comes from: "model of stage 'last', epoch 5".

    Args:
      origin: {"stage": name, "epoch": n}; {} for the run's initial weights.
    """
    if not origin:
        return "the model that the run started from"
    epoch = f", epoch {origin['epoch']}" if origin.get("epoch") else ""
    return f"model of stage {origin['stage']!r}{epoch}"


def results_rows(
    entries: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    references: Mapping[str, Metrics],
    origin: Mapping[str, Any],
) -> list[list[str]]:
    """Return the table at the end of a run: headings, and a row per reference and stage, the delivered model marked.

    Args:
      entries: entries of the stages, as in summary.json.
      columns: names of the metrics to show.
      references: {name: metrics} to compare the stages with.
      origin: origin of the delivered model, as in `model_words`.
    """
    rows = [["stage", "% trainable", "best epoch", *columns, "seconds", "delivered"]]
    for name, metrics in references.items():
        yes = "yes" if name == "start" and not origin else ""
        rows.append([f"({name})", NONE, NONE, *_values(metrics, columns), NONE, yes])
    for entry in entries:
        best = entry.get("best_epoch")
        epochs = NONE if best is None else f"{best} of {entry['epochs']}" if best else "as given"
        trainable, yes = (
            f"{100 * entry['trainable_fraction']:.2f}",
            "yes" if entry["name"] == origin.get("stage") else "",
        )
        values = _values(entry, columns)
        rows.append([entry["name"], trainable, epochs, *values, f"{entry['seconds']:.1f}", yes])
    return rows


def _values(metrics: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    found = [metrics.get(name) for name in columns]
    return [NONE if value is None else f"{value:.4f}" for value in found]


def class_lines(split: str, classes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """List the accuracy of each class, as `listed`, and the number of classes without images.

    Args:
      classes: {name: {"accuracy": 0..1, "images": n}}, as `metrics.per_class` returns it.
    """
    there = {name: found for name, found in classes.items() if found["images"]}
    ordered = sorted(there.items(), key=lambda item: item[1]["accuracy"])
    shown = [f"{name} {found['accuracy']:.3f} ({found['images']})" for name, found in ordered]
    lines, missing = listed(f"{split} accuracy", shown, " (images)"), len(classes) - len(there)
    many = f"{missing} classes have" if missing > 1 else "1 class has"
    return [*lines, f"{many} no image in {split}"] if missing else lines


def listed(what: str, shown: Sequence[str], unit: str = "", most: int = 10, ends: int = 5) -> list[str]:
    """List the value of each class on a line; of more than `most` classes, only the lowest and the highest few.

    Args:
      what: name of the values, such as "test accuracy". unit: of what is in brackets after each.
      shown: a text for each class, in ascending order of the values.
    """
    if len(shown) <= most:
        return [f"{what} of each class{unit}: {', '.join(shown)}"]
    return [
        f"{what} of the {ends} lowest of {len(shown)} classes{unit}: {', '.join(shown[:ends])}",
        f"{what} of the {ends} highest: {', '.join(shown[-ends:])}; all are in summary.json",
    ]
