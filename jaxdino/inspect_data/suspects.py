"""Images whose class may be wrong: a classifier on their features, which has not seen them, contradicts it.

Source of the rule: Northcutt et al., Confident Learning (arXiv:1911.00068), in cleanlab.
"""

from importlib.util import find_spec

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.inspect_data.images import Images

FOLDS = 5
SEED = 0
STEPS = 1000  # of the logistic regression, at most


def check_suspects(images: Images) -> None:
    """Raise UserError if cleanlab is missing, or the images do not have one class each of several."""
    if find_spec("cleanlab") is None:
        raise UserError("--suspects needs cleanlab: pip install 'jaxdino[check]'")
    counts = np.bincount(images.labels[:, 0], minlength=len(images)) if images.whole_labels else np.zeros(1)
    if counts.max(initial=0) != 1 or len(np.unique(images.labels[:, 1])) < 2:
        raise UserError(
            "--suspects needs images of one class each, of two classes or more: leave it out for these data"
        )


def suspects(images: Images, found: np.ndarray, rows: np.ndarray) -> tuple[dict[int, str], str]:
    """Return {image: why its class may be wrong}, the most likely first, and a note about what was left out.

    A logistic regression is trained on the features of four fifths of the images, and gives the probabilities of the
    other fifth; five times. Classes with fewer than two images are left out.

    Args:
      found: features float32 (M, D). rows: int64 (M,), the images, as `neighbours.features_of` returns them.

    Raises:
      UserError: if fewer than two classes have two images.
    """
    label = np.full(len(images), -1, np.int64)
    label[images.labels[:, 0]] = images.labels[:, 1]
    given = label[rows]
    sizes = np.bincount(given[given >= 0], minlength=len(images.source.class_names))
    kept = (given >= 0) & (sizes[given] >= 2)
    names, codes = np.unique(given[kept], return_inverse=True)
    if len(names) < 2:
        raise UserError("--suspects needs two classes of two readable images or more")
    chances = predicted(found[kept], codes, folds=min(FOLDS, int(np.bincount(codes).min())))
    result = {}
    for place, score, best in contradicted(codes, chances):
        said, seen = images.source.class_names[names[codes[place]]], images.source.class_names[names[best]]
        odds = f"{score:.2f}", f"{chances[place, best]:.2f}"
        result[int(rows[kept][place])] = f"labelled {said} ({odds[0]}), looks like {seen} ({odds[1]})"
    left = int((~kept).sum())
    return result, f"{left} images were not searched for wrong classes: their class has a single image" if left else ""


def contradicted(codes: np.ndarray, chances: np.ndarray) -> list[tuple[int, float, int]]:
    """Return (row, score, most probable class) of the images whose class may be wrong, the lowest score first.

    The score is the probability of the class that the image has.

    Args:
      codes: classes int (M,). chances: probabilities float64 (M, C), of a model that has not learned from the images.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    wrong = find_label_issues(codes, chances, return_indices_ranked_by="self_confidence", n_jobs=1)
    scores = get_label_quality_scores(codes, chances)
    return [(row, float(scores[row]), int(chances[row].argmax())) for row in wrong.tolist()]


def predicted(found: np.ndarray, codes: np.ndarray, folds: int) -> np.ndarray:
    """Return probabilities float64 (M, C) of each image, by classifiers that were trained without it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS, C=0.1))
    parts = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    return cross_val_predict(classifier, found, codes, cv=parts, method="predict_proba")
