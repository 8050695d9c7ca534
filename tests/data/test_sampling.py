"""Balanced sampling: evenness, determinism, resume, and what is refused."""

import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.record import Split
from jaxdino.data.sampling import class_draws, class_shares, drawn_words

COUNTS = np.array([40, 10, 3, 0, 11])


def split():
    labels = np.repeat(np.arange(len(COUNTS), dtype=np.int32), COUNTS)
    labels = np.random.default_rng(1).permutation(labels)
    records = [np.full((4, 4, 3), i, np.uint8) for i in range(len(labels))]
    return Split("train", records, {"label": labels}, tuple("abcde"))


def train(sampling="balanced", cfg=None, **options):
    how = {"seed": 5, "batch_size": 8, "image_size": 4, "preset": "none", "sampling": sampling, **options}
    return make_train_iter(split(), cfg or {"num_threads": 0}, **how)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def test_every_epoch_has_the_same_number_of_each_class():
    batches = train()
    for _ in range(3):
        labels = np.concatenate([batch["label"] for batch in take(batches, batches.steps_per_epoch)])
        assert np.bincount(labels, minlength=5).tolist() == [16, 16, 16, 0, 16]


@pytest.mark.parametrize("sampling", ["balanced", "square_root"])
def test_images_of_a_class_are_drawn_equally_often(sampling):
    batches = train(sampling)
    draws = np.concatenate([batch["index"] for batch in take(batches, 15 * batches.steps_per_epoch)])
    labels, times = split().labels, np.bincount(draws, minlength=len(split()))
    for label in np.flatnonzero(COUNTS):
        assert np.ptp(times[labels == label]) <= 1


def test_the_order_differs_between_epochs_and_within_a_class():
    batches = train()
    first, second = (
        np.concatenate([batch["index"] for batch in take(batches, batches.steps_per_epoch)]) for _ in range(2)
    )
    assert not np.array_equal(first, second)
    labels = split().labels
    rare = [draws[labels[draws] == 2] for draws in (first, second)]
    assert len({tuple(one[:3]) for one in rare}) == 2


@pytest.mark.parametrize("cfg", [{"num_threads": 3}, {"num_workers": 2, "num_threads": 1}])
def test_threads_workers_hosts_and_a_resume_change_nothing(cfg):
    reference = take(train(), 20)
    other = train(cfg=cfg)
    state = None
    try:
        for batch in reference[:12]:
            assert np.array_equal(next(other)["index"], batch["index"])
        state = other.state()
    finally:
        other.close()
    again = train()
    again.restore(state)
    assert all(np.array_equal(next(again)["image"], batch["image"]) for batch in reference[12:])
    hosts = [train(process_index=host, process_count=2) for host in range(2)]
    for batch in reference[:9]:
        assert np.array_equal(np.concatenate([next(host)["index"] for host in hosts]), batch["index"])


def test_another_sampling_does_not_go_on():
    state = train().state()
    with pytest.raises(UserError, match="sampling = balanced, this run uniform"):
        train("uniform").restore(state)
    del state["sampling"]  # as before there was a choice
    train("uniform").restore(state)


def test_shares_and_draws():
    assert class_shares(COUNTS, "uniform").tolist() == (COUNTS / 64).tolist()
    assert class_shares(COUNTS, "balanced").tolist() == [0.25, 0.25, 0.25, 0, 0.25]
    root = np.sqrt(COUNTS)
    np.testing.assert_allclose(class_shares(COUNTS, "square_root"), root / root.sum())
    for sampling in ("uniform", "square_root", "balanced"):
        for total in (1, 7, 63, 64):
            draws = class_draws(COUNTS, sampling, total)
            assert draws.sum() == total and np.abs(draws - class_shares(COUNTS, sampling) * total).max() < 1


def test_words():
    words = drawn_words(COUNTS, tuple("abcde"), "balanced")
    assert words.startswith("the 3 images of 'c' are drawn 5.33 times each in an epoch; the 40 images of 'a'")
    assert drawn_words(np.array([7, 0, 7]), "abc", "balanced").startswith("each class with images has 7")


def test_unknown_sampling():
    with pytest.raises(UserError, match=r"data.sampling='even' is not known.*"):
        train("even")
