"""The section of errors: galleries and a map."""

from collections.abc import Sequence
from typing import Any

from jaxdino.core.bars import bar
from jaxdino.data.thumbnail import thumbnail
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.drawing import COLOURS, drawn, points
from jaxdino.evaluation.errors import feature_map
from jaxdino.evaluation.errors import suspects as label_suspects
from jaxdino.evaluation.errors.mistakes import as_csv, words, wrong
from jaxdino.evaluation.errors.overlays import overlays
from jaxdino.evaluation.errors.typical import FEWEST, typical
from jaxdino.evaluation.metrics import given_classes
from jaxdino.evaluation.page import MISTAKES
from jaxdino.evaluation.predictions import shown_names
from jaxdino.evaluation.section import Block, Gallery, Notes, Plots, Section

PICTURES = 120
"""Most pictures of typical images on the page."""
EACH = 3
"""Most typical images of a class, and most untypical ones."""
MEANINGS = {
    "Grad-CAM": "Grad-CAM: where the last feature map (of a ViT, the patches before the last block) speaks for the "
    "class that is shown",
    "attention": "attention: of the last block's class token to the patches, mean of its heads",
}


def errors(context: Context) -> list[Section]:
    """Show the mistakes, typical images, a map of the features, and labels that may be wrong."""
    values: dict[str, Any] = {}
    blocks: list[Block] = []
    files: dict[str, str] = {}
    parts = (("mistakes", _mistakes), ("typical", _typical), ("map", _map), ("suspects", _suspects))
    for name, part in bar(parts, f"errors: {', '.join(name for name, _ in parts)}", unit="part"):
        values[name], shown = part(context)
        blocks += shown
    files[MISTAKES] = as_csv(context.found, wrong(context.found, context.thresholds))
    return [Section("errors", f"Errors on {context.found.split.name}", values, blocks, files)]


def _pictures(context: Context, rows: Sequence[int]) -> list[str]:
    found, run = context.found, context.run
    reading = run.data.reading(len(run.model.card.spec.preprocess.mean))
    return [thumbnail(found.split.records[int(found.indices[row])], reading) for row in rows]


def _mistakes(context: Context) -> tuple[Any, list[Block]]:
    found = context.found
    listed = wrong(found, context.thresholds)
    kept = listed.first_of_images(context.settings.most_errors)
    rows = kept.rows.tolist()
    names, abouts = shown_names(found, rows), words(found, kept)
    columns = (names, kept.classes.tolist(), kept.probabilities.tolist(), rows)
    shown = [
        {
            "image": name,
            "true": [found.names[c] for c in found.there[row].nonzero()[0]],
            "class": found.names[place],
            "probability": chance,
        }
        for name, place, chance, row in zip(*columns, strict=True)
    ]
    values = {"count": len(listed), "file": MISTAKES, "shown": shown}
    if not rows:
        return values, [Notes(["There is no mistake."])]
    seen = overlays(context, found.indices[rows].tolist(), kept.classes.tolist())
    images = []
    for name, about, one in zip(names, abouts, seen, strict=True):
        more = [{"name": "", "about": key, "picture": picture} for key, picture in one.items() if key != "input"]
        images.append({"name": name, "about": about, "picture": one.get("input", ""), "more": more})
    extra = [text for key, text in MEANINGS.items() if any(key in one for one in seen)]
    what = "labels furthest from the truth" if found.several else "highest probability of a wrong class"
    total = f"{what}; {len(images)} images, of {len(listed):,} mistakes in all, which {MISTAKES} lists"
    lacking = [] if extra else ["there are no overlays for this network"]
    note = ". ".join([total, *lacking, "Images as the network receives them", *extra]) + "."
    return values, [Gallery(images, "Confident mistakes", note)]


def _typical(context: Context) -> tuple[Any, list[Block]]:
    found = context.found
    count = max(1, min(EACH, PICTURES // (2 * len(found.names))))
    listed = typical(found, count)
    values, images = {}, []
    for place, one in listed.items():
        pairs = [("typical", pair) for pair in one.nearest] + [("least typical", pair) for pair in one.farthest]
        rows = [row for _, (row, _) in pairs]
        names = shown_names(found, rows)
        values[found.names[place]] = {
            key: [{"image": n, "distance": d} for n, (k, (_, d)) in zip(names, pairs, strict=True) if k == kind]
            for key, kind in (("typical", "typical"), ("least_typical", "least typical"))
        }
        if (len(images) + 1) * 2 * count > PICTURES:
            continue
        abouts = [f"{found.names[place]}, {kind} ({distance:.3g})" for kind, (_, distance) in pairs]
        parts = zip(names, abouts, _pictures(context, rows), strict=True)
        first, *more = [{"name": name, "about": about, "picture": picture} for name, about, picture in parts]
        images.append(first | {"more": more})
    if not images:
        return values, [Notes([f"Typical images: none, no class has {FEWEST} images."])]
    note = "in brackets the distance of the features to the mean of the class"
    if left := len(listed) - len(images):
        note += f"; {left} classes are not shown, the JSON file has them"
    if few := len(found.names) - len(listed):
        note += f"; {few} classes have fewer than {FEWEST} images"
    return values, [Gallery(images, "Typical and least typical images", note + ".")]


def _map(context: Context) -> tuple[Any, list[Block]]:
    found = context.found
    rows = feature_map.drawn_rows(len(found), context.settings.seed)
    if why := feature_map.why_not(found.features[rows]):
        return {"why": why}, [Notes([f"Map of the features: not drawn, {why}."])]
    places = feature_map.places(found.features[rows], context.settings.seed)
    mistaken = (given_classes(found, context.thresholds) != found.there).any(axis=1)[rows]
    kinds, names = found.there[rows].argmax(axis=1), list(found.names)
    if found.several:
        kinds[~found.there[rows].any(axis=1)] = len(names)
        names = [*names, "none"]
    listed = [
        {"image": name, "x": round(x, 3), "y": round(y, 3), "mistake": bad}
        for name, (x, y), bad in zip(shown_names(found, rows.tolist()), places.tolist(), mistaken.tolist(), strict=True)
    ]
    parts = [f"{len(rows):,} of {len(found):,} images" + (", drawn at random" if len(rows) < len(found) else "")]
    parts.append("near images have similar features; distances between far groups mean little")
    parts.append(f"coloured by the {'first class that the image has' if found.several else 'true class'}")
    parts.append("crosses are mistakes")
    if len(names) > len(COLOURS):
        parts.append(f"there are only {len(COLOURS)} colours, so several classes share one")
    picture = drawn(points(places, kinds, names, mistaken), "Features (PCA, then t-SNE)", (6.4, 4.4))
    block = Plots([("Map of the features", picture)], "Map of the features", "; ".join(parts) + ".")
    return {"images": listed, "drawn": len(rows), "of": len(found)}, [block]


def _suspects(context: Context) -> tuple[Any, list[Block]]:
    found = context.found
    if why := label_suspects.why_not(found):
        return {"why": why}, [Notes([f"Labels that may be wrong: not searched, {why}."])]
    listed = label_suspects.suspects(found)
    names = shown_names(found, [row for row, _, _ in listed])
    values = []
    for name, (row, score, best) in zip(names, listed, strict=True):
        given = {"image": name, "label": found.names[found.labels[row]], "probability": score}
        values.append(given | {"looks_like": found.names[best], "its_probability": float(found.odds[row, best])})
    kept = values[: context.settings.most_errors]
    pictures = _pictures(context, [row for row, _, _ in listed[: len(kept)]])
    images = []
    for one, picture in zip(kept, pictures, strict=True):
        about = f"labelled {one['label']} ({one['probability']:.2f}), looks like {one['looks_like']}"
        about += f" ({one['its_probability']:.2f})"
        images.append({"name": one["image"], "about": about, "picture": picture})
    if not images:
        return values, [Notes(["Labels that may be wrong: none found."])]
    note = (
        f"{len(kept)} of {len(values):,} that cleanlab finds by the predictions of this model: those of a weak model "
    )
    return values, [Gallery(images, "Labels that may be wrong", note + "are often its own mistakes.")]
