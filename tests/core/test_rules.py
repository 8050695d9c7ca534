"""First match wins, and nothing stays uncovered on either side."""

import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean, first_match, nearest

PATHS = ["backbone.cls_token", "backbone.blocks.1.norm1.scale", "backbone.blocks.10.norm1.scale", "head.bias"]


def test_first_match_wins_in_the_order_of_the_paths():
    rules = [(r"head\..*", "head"), (r".*\.norm1\..*", "norm"), (".*", "rest")]
    chosen = first_match(PATHS, rules)
    assert list(chosen.items()) == list(zip(PATHS, ["rest", "norm", "norm", "head"], strict=True))


def test_the_whole_path_must_match():
    chosen = first_match(PATHS, [(r"backbone\.blocks\.1\..*", "one"), (".*", "rest")])
    assert chosen["backbone.blocks.1.norm1.scale"] == "one"
    assert chosen["backbone.blocks.10.norm1.scale"] == "rest"
    with pytest.raises(UserError, match="'head' matches no parameter"):
        first_match(PATHS, [("head", 1), (".*", 2)])


def test_a_rule_that_matches_nothing_names_the_nearest():
    with pytest.raises(UserError, match=r"matches no tensor; nearest: head\.bias"):
        first_match(PATHS, [(r"head\.bia", 1), (".*", 2)], what="tensor")


def test_a_rule_whose_paths_are_taken_is_accepted():
    assert first_match(["head.bias"], [(".*", 1), (r"head\..*", 2)]) == {"head.bias": 1}


def test_an_uncovered_path_is_named_with_the_fix():
    with pytest.raises(UserError, match=r"no rule covers the parameter 'head\.bias'.*'\.\*'"):
        first_match(PATHS, [(r"backbone\..*", 1)])


def test_a_broken_pattern_is_named():
    with pytest.raises(UserError, match=r"'backbone\.\(' is not a regular expression"):
        first_match(PATHS, [("backbone.(", 1)])


def test_nearest_prefers_the_alike_and_falls_back_to_the_first():
    assert nearest("head.bais", PATHS)[0] == "head.bias"
    assert nearest("zzz", ["a", "b", "c", "d"]) == ["a", "b", "c"]
    assert did_you_mean("x", []) == "there is none to choose from"
