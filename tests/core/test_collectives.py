"""Collectives read from a compiled program: every form in which XLA prints the groups, and the bytes sent."""

import pytest

from benchmarks.collectives import by_kind, collectives

LINES = {
    "%a = f32[64,2]{1,0} all-gather(%p), channel_id=9, replica_groups=[4,2]<=[2,2,2]T(1,0,2), dimensions={0}": (
        ("all-gather", 2, 512, ("f32",)),
        256,
    ),
    "%b = (bf16[8]{0}, bf16[8]{0}) all-to-all(%p, %q), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}": (
        ("all-to-all", 4, 32, ("bf16", "bf16")),
        24,
    ),
    "%c = f32[2,3]{1,0} all-reduce(%p), replica_groups={{0,1,2},{3,4,5}}, to_apply=%add": (
        ("all-reduce", 3, 24, ("f32",)),
        32,
    ),
    "%d = pred[7]{0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a', 'b':(1)2}": (
        ("all-reduce", 4, 7, ("pred",)),
        10.5,
    ),
    "%e = f32[4]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}": (
        ("collective-permute", 8, 16, ("f32",)),
        16,
    ),
    "%f = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}": (
        ("all-gather", 4, 32, ("f32",)),
        24,
    ),
    "%g = f32[2]{0} reduce-scatter(%p), replica_groups=[1,8]<=[8], dimensions={0}": (
        ("reduce-scatter", 8, 8, ("f32",)),
        56,
    ),
}


@pytest.mark.parametrize(("line", "wanted"), LINES.items())
def test_one_line(line, wanted):
    (found,) = collectives(f"ENTRY %main\n  {line}\n  ROOT %r = f32[] add(%x, %y)", devices=8)
    assert (tuple(found), found.sent) == wanted


def test_the_sum_by_kind():
    found = by_kind(collectives("\n".join(LINES), devices=8))
    assert found == {
        "all-reduce": 42.5,
        "all-gather": 280,
        "reduce-scatter": 56,
        "all-to-all": 24,
        "collective-permute": 16,
    }
