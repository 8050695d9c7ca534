"""Train hundreds of heads on features and choose one: `python -m jaxdino.probe --features FEATURES --out DIR`.

FEATURES is what `jaxdino extract` wrote. Heads are chosen by validation and measured once on test. DIR gets
summary.json, the table of the sweep, its plot, the heads, and in DIR/best the model with the chosen head, for
`jaxdino predict --workdir DIR`, `jaxdino convert export --workdir DIR` and training: --config.model.weights=DIR/best.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable

METHODS = ("linear", "logistic", "ridge", "nearest_mean", "knn", "attentive")
ALL = "all"


def main(argv: list[str] | None = None) -> int:
    """Print a table of results; return the exit status, see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> None:
    args = _parser().parse_args(expanded(argv))
    prepare()
    keep_programs()
    probe(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program("probe"),
        description=described("probe", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--features", required=True, metavar="FEATURES", help="folder that jaxdino extract wrote")
    add("--out", required=True, metavar="DIR", help="folder of the results")
    add(
        "--methods", nargs="+", default=["linear"], metavar="NAME", help=f"{', '.join(METHODS)} or all (default linear)"
    )
    add("--inputs", nargs="+", metavar="NAME", help="cls, mean, cls_mean, cls4_mean, or features such as cls-2+cls-1")
    add("--learning_rates", type=float, nargs="+", metavar="LR", help="of linear (default 13 from 1e-5 to 0.1)")
    add("--weight_decays", type=float, nargs="+", metavar="WD", help="of linear (default 0 0.001 0.01)")
    add("--smoothing", type=float, nargs="+", default=[0.0], metavar="S", help="label smoothings of linear (default 0)")
    add("--seeds", type=int, default=1, metavar="N", help="heads with N initial weights for each setting (default 1)")
    add("--folds", type=int, default=0, metavar="K", help="choose by K-fold cross-validation on train and val")
    add("--steps", type=int, help="minibatches (default 100 epochs, from 2500 to 12500)")
    add("--batch_size", type=int, default=128, help="rows of a minibatch (default 128)")
    add("--k", type=int, nargs="+", default=[10, 20], help="neighbours of knn (default 10 20)")
    add("--shots", type=int, nargs="+", default=[], metavar="N", help="also with only N images of each class")
    add("--draws", type=int, default=20, help="random draws of these images (default 20)")
    add("--weights", metavar="SRC", help="where the weights are now, if they have moved")
    add("--unchecked", action="store_true", help="do not compare the features with the images as they are now")
    add("--overwrite", action="store_true", help="replace the results in --out")
    add("--seed", type=int, default=0, help="seed of the minibatches, folds and draws (default 0)")
    return parser


def probe(args: argparse.Namespace) -> dict[str, Any]:
    """Train and choose heads as the flags say; write the results and return the summary.

    Raises:
      UserError: for wrong arguments and stale features, before a head is trained.
    """
    from convert.atomic import atomic_folder, refuse_occupied
    from jaxdino.core.json_file import write_json
    from jaxdino.features.reader import open_features
    from jaxdino.probing import results, selection, sets

    begin = time.perf_counter()
    _check(args)
    cache = open_features(args.features)
    inputs = _inputs(args, cache)
    split = sets.split_of(cache, args.folds, args.seed)
    out = Path(args.out)
    refuse_occupied(out, args.overwrite, results.FILES.__contains__)
    pretrained = _weights(cache, args.weights)
    if not args.unchecked:
        _check_fresh(cache)
    outcomes, found, few, seconds = _sweep(args, cache, inputs, split)
    monitor = "map" if cache.multilabel else "accuracy"
    with atomic_folder(out) as draft:  # the results of an earlier probe stay until these are complete
        results.write_sweep(draft / results.SWEEP, outcomes, _seeds(args))
        results.draw(draft / results.SURFACE, outcomes, monitor)
        chosen = selection.best_of_each(outcomes)
        for outcome in chosen.values():
            results.save_heads(draft / results.HEADS, outcome, cache.class_names)
        summary = _summary(cache, found, few, monitor)
        summary["model"] = _put_back(draft / results.BEST, cache, pretrained, chosen, summary)
        if summary["model"]["folder"]:
            summary["model"]["folder"] = str(out / results.BEST)
        summary["seconds"] = seconds | {"total": time.perf_counter() - begin}
        summary["heads"] = sum(outcome.trained for outcome in outcomes)
        write_json(draft / results.SUMMARY, summary)
    results.report(summary, monitor, out, say)
    return summary


def _check(args: argparse.Namespace) -> None:
    from jaxdino.core.options import check_range
    from jaxdino.core.rules import did_you_mean

    for name in args.methods:
        if name not in (*METHODS, ALL):
            raise UserError(f"--methods {name} is not known; {did_you_mean(name, [*METHODS, ALL])}")
    for name, interval in (("learning_rates", "(0, inf)"), ("weight_decays", "[0, inf)"), ("smoothing", "[0, 1)")):
        check_range(f"--{name}", tuple(getattr(args, name) or ()), interval)
    for name in ("seeds", "batch_size", "draws"):
        check_range(f"--{name}", getattr(args, name), "[1, inf)")
    check_range("--k", tuple(args.k), "[1, inf)")
    check_range("--shots", tuple(args.shots), "[1, inf)")
    check_range("--seed", args.seed, "[0, inf)")
    check_range("--folds", args.folds, "[0, inf)")
    if args.steps is not None:
        check_range("--steps", args.steps, "[1, inf)")


def _inputs(args: argparse.Namespace, cache: Any) -> dict[str, tuple[str, ...]]:
    """Return {input: its features}; by default every pooling whose features are in the cache."""
    from jaxdino.features.names import PATCHES, available, parts_of

    if "attentive" in args.methods and PATCHES not in cache.names:
        raise UserError(
            f"the attentive probe reads patch tokens, which {cache.folder} lacks: jaxdino extract --patches"
        )
    return {name: parts_of(name, cache.names) for name in args.inputs or available(cache.names)}


def _seeds(args: argparse.Namespace) -> list[int]:
    return list(range(args.seed, args.seed + args.seeds))


def _methods(args: argparse.Namespace, cache: Any) -> tuple[list[Any], list[str]]:
    """Return the methods whose heads are trained, and the names of all that were asked for."""
    from jaxdino.features.names import PATCHES
    from jaxdino.probing.attentive import Attentive
    from jaxdino.probing.linear import Logistic, NearestMean, Ridge, Sgd

    names: list[str] = list(METHODS) if ALL in args.methods else list(dict.fromkeys(args.methods))
    if PATCHES not in cache.names and "attentive" in names:
        names.remove("attentive")
        say("attentive: left out, since the cache has no patch tokens (jaxdino extract --patches)")
    own = {name: getattr(args, name) for name in ("learning_rates", "weight_decays") if getattr(args, name)}
    known = {"linear": Sgd(**own, smoothing=args.smoothing), "logistic": Logistic(), "ridge": Ridge()}
    known |= {"nearest_mean": NearestMean(), "attentive": Attentive()}
    return [known[name] for name in names if name in known], names


def _check_fresh(cache: Any) -> None:
    from jaxdino.features import manifest

    lines, note = manifest.stale(cache.folder, cache.made)
    if note:
        say(note)
    if lines:
        raise UserError(
            f"the features in {cache.folder} are stale: {'; '.join(lines)}. Extract again with --overwrite, or use "
            "them as they are: --unchecked"
        )


def _weights(cache: Any, src: str | None) -> Any:
    """Load the weights that the features were made by; None, with a note, if they are not there any more.

    Raises:
      UserError: if they have changed.
    """
    from convert.describe import UnknownPool
    from convert.load import load_pretrained
    from jaxdino.probing.put_back import check_weights

    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in cache.made.opened_by.items()
    }
    place = given.pop("weights")
    if src is None and Path(place).is_absolute() and not Path(place).exists():
        say(f"the weights are not at {place} any more: no model is written; --weights SRC says where they are")
        return None
    try:
        found = load_pretrained(src or place, **given)
    except UnknownPool:
        found = load_pretrained(src or place, drop_head=True, **given)
    check_weights(cache, found.card)
    return found


def _sweep(
    args: argparse.Namespace, cache: Any, inputs: Mapping[str, tuple[str, ...]], split: Any
) -> tuple[list[Any], dict[str, dict[str, Any]], dict[int, Any], dict[str, float]]:
    """Run every method on every input; return outcomes, {method: what is reported}, few-shot results and times."""
    from jaxdino.features.names import PATCHES
    from jaxdino.probing import selection, without_training
    from jaxdino.probing.method import Job
    from jaxdino.probing.sets import load_sets

    methods, names = _methods(args, cache)
    classes, outcomes, near, few, reading = len(cache.class_names), [], [], {}, 0.0
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    begin = time.perf_counter()
    todo = {name: (parts, [one for one in methods if one.name != "attentive"]) for name, parts in inputs.items()}
    todo |= {PATCHES: ((PATCHES,), [one for one in methods if one.name == "attentive"])}
    for name, (parts, of_input) in todo.items():
        neighbours = "knn" in names and name != PATCHES and not cache.multilabel
        shots = bool(args.shots) and name == next(iter(inputs)) and not cache.multilabel
        if not (of_input or neighbours or shots):
            continue
        start = time.perf_counter()
        rows = load_sets(cache, name, parts, split)
        reading += time.perf_counter() - start
        if neighbours:  # these first: they refuse wrong settings before anything is trained
            near.append(without_training.knn(rows, args.k, classes))
        if shots:
            few = without_training.few_shot(rows, args.shots, args.draws, classes, max(args.k), args.seed)
        train = rows.train
        job = Job(train.x, train.y, classes, rows.fold_of, args.steps, args.batch_size, args.seed)
        for method in of_input:
            if cache.multilabel and method.why_not_several:
                found[method.name] = {"reason": method.why_not_several}
                continue
            outcomes.append(selection.run(method, rows, job, _seeds(args)))
            _tell(outcomes[-1])
    for name, outcome in selection.best_of_each(outcomes).items():
        test = selection.measured(outcome.method, outcome.heads[0], outcome.sets.test)
        found[name] = selection.about(outcome) | {"test": test}
    if "knn" in found:
        several = {"reason": "an image of several classes has no single class for neighbours to vote on"}
        found["knn"] = max(near, key=lambda one: one["val"]["value"]) if near else several
    return outcomes, found, few, {"reading": reading, "sweep": time.perf_counter() - begin - reading}


def _tell(outcome: Any) -> None:
    bad = f", {outcome.diverged} of them not finite" if outcome.diverged else ""
    bad += f", {outcome.unconverged} of them not converged" if outcome.unconverged else ""
    say(
        f"{outcome.method.name} on {outcome.sets.name}: {outcome.trained} heads{bad} in {outcome.seconds:.1f} s, "
        f"best on validation {outcome.score:.2%}"
    )


def _summary(cache: Any, found: Mapping[str, Any], few: Mapping[int, Any], monitor: str) -> dict[str, Any]:
    """Return the summary: the method that is best on validation, and all of them."""
    there = {name: one for name, one in found.items() if one.get("val")}
    about = {"folder": str(cache.folder), "weights": dict(cache.made.weights), "images": cache.images}
    summary: dict[str, Any] = {"features": about, "classes": len(cache.class_names), "monitor": f"val/{monitor}"}
    if there:
        name = max(there, key=lambda one: there[one]["val"]["value"])
        best = there[name]
        summary |= {f"val/{monitor}": best["val"]["value"], f"test/{monitor}": best["test"]["value"]}
        summary["chosen"] = {"method": name, "input": best["input"], **best["settings"]}
        summary |= {"val": best["val"], "test": best["test"]}
    return summary | {"methods": dict(found), "few_shot": dict(few)}


def _put_back(
    folder: Path, cache: Any, pretrained: Any, chosen: Mapping[str, Any], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """Save the model with the best linear head on features that a model reads; return what was saved, or why not."""
    from jaxdino.evals.multilabel import best_threshold
    from jaxdino.probing import put_back, selection

    if pretrained is None:
        return {"folder": None, "reason": "the weights are not there any more"}
    linear = {name: one for name, one in chosen.items() if one.method.linear}
    reasons = {name: put_back.why_not(one.sets.parts, pretrained.card, cache) for name, one in linear.items()}
    fitting = {name: one for name, one in linear.items() if not reasons[name]}
    if not fitting:
        return {"folder": None, "reason": next(iter(reasons.values()), "no linear head was trained")}
    name = max(fitting, key=lambda one: summary["methods"][one]["val"]["value"])
    outcome = fitting[name]
    thresholds: tuple[float, ...] = ()
    if cache.multilabel:
        from scipy.special import expit

        logits = selection.logits(outcome.method, outcome.heads[0], outcome.sets.choose.x)[:, :, 0]
        there = outcome.sets.choose.y > 0.5
        thresholds = tuple(map(best_threshold, expit(logits.astype("float64")).T, there.T))
    head = put_back.folded(outcome.heads[0], outcome.sets.mean, outcome.sets.scale)
    card = put_back.save_with_head(
        folder, cache, pretrained.card, pretrained.flat, outcome.sets.parts, head, thresholds
    )
    if name != summary["chosen"]["method"]:
        say(f"{folder.name}/ has the head of {name}: a model cannot hold that of {summary['chosen']['method']}")
    return {"folder": str(folder), "method": name, "input": outcome.sets.name, "digest": card.digest}


def say(line: str) -> None:
    """Print a note; settings in it are spelled as flags of this command."""
    print(printable(line.replace("--config.", "--")), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
