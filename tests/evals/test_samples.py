"""Which records a picture shows."""

from jaxdino.evals.samples import spread_first


def test_different_images_spread_over_the_split_come_first():
    images = [f"{n}.png" for n in range(11) for _ in range(3)]
    order = spread_first(images, [0, 1, 2] * 11, 3)
    assert [images[row] for row in order[:3]] == ["0.png", "5.png", "10.png"]
    assert sorted(row % 3 for row in order[:3]) == [0, 1, 2]  # and different prompts
    assert len({images[row] for row in order[:11]}) == 11 and sorted(order) == list(range(33))


def test_few_images_are_filled_up_with_more_of_their_records():
    assert spread_first(["a", "a", "a", "b"], [0, 1, 2, 0], 6) == [0, 3, 1, 2]
    assert spread_first([], [], 6) == []
