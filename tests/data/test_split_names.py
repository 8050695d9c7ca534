import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.split_names import assign, split_of, splits_of


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAIN training Training train_set trainset TrainSet train-images train2017 training_data",
        ),
        ("val", "val Val valid VALID validation dev Dev eval evaluation val_set validset val2014 dev_images"),
        ("test", "test Test TESTING testing test_set testset test1 Test-Data test_images"),
        (None, "trainval invalid cat devices tested test_tube restraint train_test images 2019 contest bullet-train"),
    ],
)
def test_names_of_splits(split, names):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_a_word_that_names_share_is_no_part_of_the_split():
    assert splits_of(["seg_train", "seg_test", "seg_pred"]) == {"seg_train": "train", "seg_test": "test"}
    assert splits_of(["bullet_train", "car", "test_tube", "crash_test"]) == {}


def test_given_names_come_first():
    names = ["train", "val", "valid", "holdout"]
    assert assign(names, {"val": "valid"}, "DIR") == {"train": "train", "val": "valid"}
    assert assign(names, {"val": "none"}, "DIR") == {"train": "train"}
    assert assign(names, {"val": "val", "test": "valid"}, "DIR")["test"] == "valid"
    with pytest.raises(UserError, match=r"DIR has both val and valid, .* the val split: .*--config.data.val_split=val"):
        assign(names, {}, "DIR")
    with pytest.raises(UserError, match=r"test_split is 'Holdout', .*found: train, val, valid, holdout"):
        assign(names, {"test": "Holdout"}, "DIR")
    with pytest.raises(UserError, match=r"'val' is given for two splits: .*val_split=val .*test_split=val"):
        assign(names, {"val": "val", "test": "val"}, "DIR")
    many = [f"class {i}" for i in range(20)]
    with pytest.raises(UserError, match=r"found: class 7"):
        assign(many, {"train": "CLASS 7"}, "DIR")
