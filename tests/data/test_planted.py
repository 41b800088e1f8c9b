import numpy as np
import pytest

from ddad_jax.data.defect_kinds import KINDS
from ddad_jax.data.image_set import ImageSet
from ddad_jax.data.planted import ENOUGH, SIZES, find_part, plant, plant_in_set
from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.data.synthetic import VISIBLE, synthetic_source


@pytest.fixture(scope="module")
def source():
    return synthetic_source(image_size=128, num_train=4, num_test_good=0, num_test_per_defect=0)


@pytest.fixture(scope="module")
def parts(source):
    return np.stack([source.read_image(sample) for sample in source.samples])


@pytest.fixture(scope="module")
def heldout(source, parts):
    return ImageSet(
        samples=source.samples,
        squares=parts,
        starts=np.arange(len(parts) + 1),
        masks=np.zeros(parts.shape[:3], bool),
        has_mask=np.ones(len(parts), bool),
        sizes=np.full((len(parts), 2), 128),
        contents=tuple("abcd"),
    )


def plant_in(image, others, kind, size, seed=0):
    return plant(image, find_part(image), list(others), kind, size, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_mask_marks_what_was_changed_and_nothing_else(parts, kind, size):
    planted = plant_in(parts[0], parts[1:], kind, size)
    assert planted is not None
    np.testing.assert_array_equal(planted.original, parts[0])
    change = np.abs(planted.image.astype(int) - planted.original).max(-1)
    assert change[~planted.mask].max() < VISIBLE
    assert (change[planted.mask] >= VISIBLE).mean() > 0.5
    low, high = SIZES[size]
    assert ENOUGH * low <= planted.mask.mean() <= high / ENOUGH
    assert (planted.mask & find_part(parts[0])).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_image_and_seed_give_the_same_defect_and_no_others_do(parts, kind):
    first, again, other_seed = (
        plant_in(parts[0].copy(), parts[1:], kind, "medium", seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.mask != other_seed.mask).any()
    changed = parts[0].copy()
    changed[0, 0, 0] ^= 1
    assert (first.mask != plant_in(changed, parts[1:], kind, "medium", 3).mask).any()


@pytest.mark.parametrize("kind", ["scratch", "cut", "stain", "dent"])
def test_what_is_painted_stays_on_the_part(parts, kind):
    part = find_part(parts[0])
    assert 0.4 < part.mean() < 0.95
    planted = plant_in(parts[0], parts[1:], kind, "large")
    assert (planted.mask & part).sum() > 0.9 * planted.mask.sum()


def test_a_part_that_fills_the_image_is_all_of_it():
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert find_part(texture).all()
    assert find_part(np.full((64, 64, 3), 130, np.uint8)).all()


def test_what_would_not_show_is_not_planted():
    flat = np.full((64, 64, 3), 130, np.uint8)
    assert plant_in(flat, flat[None], "piece", "medium") is None
    assert plant_in(flat, flat[None], "foreign", "medium") is None
    assert plant_in(flat, flat[None], "stain", "medium") is not None


@pytest.mark.parametrize("shape", [(96, 64, 3), (64, 96, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_images_need_not_be_square_and_may_be_alone(shape, kind):
    image = np.random.default_rng(0).integers(90, 160, shape, np.uint8)
    planted = plant_in(image, image[None][:0], kind, "large")
    assert planted is not None and planted.image.shape == shape


def test_a_set_holds_every_kind_and_size_and_the_images_without(heldout):
    images, planted = plant_in_set(heldout, 64, seed=1)
    assert len({sample.name for sample in images.samples}) == len(images) == 4 + len(planted)
    assert len(planted) >= 60
    assert {(each.kind, each.size) for each in planted} == {(k, s) for k in KINDS for s in SIZES}
    labels = images.labels
    assert (labels[:4] == NORMAL).all() and (labels[4:] == ANOMALOUS).all()
    np.testing.assert_array_equal(images.squares[:4], heldout.squares)
    assert not images.masks[:4].any() and images.masks[4:].any((1, 2)).all()
    for row, each in enumerate(planted, 4):
        np.testing.assert_array_equal(images.squares[row], each.image)
        assert images.samples[row].defect == each.kind
    # All images take part alike, whatever number is asked for.
    originals = [each.original.tobytes() for each in planted]
    counts = [originals.count(square.tobytes()) for square in heldout.squares]
    assert max(counts) - min(counts) <= 4


def test_a_set_is_the_same_for_the_same_seed(heldout):
    (first, _), (again, _), (other, _) = (plant_in_set(heldout, 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.squares, again.squares)
    assert first.samples == again.samples
    assert first.samples != other.samples
