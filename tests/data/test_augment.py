import numpy as np
import pytest

from ddad_jax.data.augment import (
    AugmentationSettings,
    Flip,
    Motion,
    QuarterTurn,
    build_augmentations,
    move,
)
from ddad_jax.data.loader import training_batches
from ddad_jax.errors import UserError
from tests.data.pictures import picture

IMAGE = picture(0, 16, 16)


def outcomes(augmentation, count=64):
    rng = np.random.default_rng(0)
    return [augmentation({"image": IMAGE, "index": 7}, rng) for _ in range(count)]


@pytest.mark.parametrize(
    "augmentation, expected",
    [
        (Flip(axis=1), [IMAGE, IMAGE[:, ::-1]]),
        (Flip(axis=0), [IMAGE, IMAGE[::-1]]),
        (QuarterTurn(), [np.rot90(IMAGE, turns) for turns in range(4)]),
    ],
)
def test_every_outcome_occurs_and_no_other(augmentation, expected):
    images = {record["image"].tobytes() for record in outcomes(augmentation)}
    assert images == {image.tobytes() for image in expected}


@pytest.mark.parametrize("augmentation", [Flip(1), QuarterTurn(), Motion(5.0, 0.1)])
def test_the_rest_of_a_record_is_kept_and_the_original_untouched(augmentation):
    before = IMAGE.copy()
    for record in outcomes(augmentation):
        assert record["index"] == 7
        assert record["image"].shape == IMAGE.shape and record["image"].dtype == np.uint8
    np.testing.assert_array_equal(IMAGE, before)


def test_moving_nowhere_changes_nothing():
    np.testing.assert_array_equal(move(IMAGE, 0.0, 0.0, 0.0), IMAGE)


def test_whole_pixel_shifts_are_exact_and_repeat_the_edge():
    moved = move(IMAGE, 0.0, 2 / 16, -3 / 16)
    np.testing.assert_array_equal(moved[:13, 2:], IMAGE[3:, :14])
    np.testing.assert_array_equal(moved[:13, 0], IMAGE[3:, 0])


def test_rotation_is_clockwise():
    np.testing.assert_array_equal(move(IMAGE, np.pi / 2, 0.0, 0.0), np.rot90(IMAGE, -1))


def test_uniform_images_have_no_border_afterwards():
    uniform = np.full((16, 16, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert (Motion(45.0, 0.5)({"image": uniform}, rng)["image"] == 90).all()


def test_there_are_none_unless_asked_for():
    assert build_augmentations(AugmentationSettings()) == ()
    assert build_augmentations(AugmentationSettings(True, True, True, 5.0, 0.1)) == (
        Flip(1),
        Flip(0),
        QuarterTurn(),
        Motion(5.0, 0.1),
    )


@pytest.mark.parametrize("setting", [{"max_rotation": 90.0}, {"max_shift": -0.1}])
def test_settings_out_of_range(setting):
    with pytest.raises(UserError, match=f"{next(iter(setting))}: .* must be at least 0"):
        AugmentationSettings(**setting)


def test_the_loader_restarts_them_exactly():
    images = np.stack([picture(seed, 16, 16) for seed in range(6)])
    chosen = build_augmentations(AugmentationSettings(True, True, True, 5.0, 0.1))
    batches = training_batches({"image": images}, 4, 0, chosen)
    for _ in range(3):
        next(batches)
    state = batches.get_state()
    expected = next(batches)["image"]
    again = training_batches({"image": images}, 4, 0, chosen)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["image"], expected)
