import logging
import os
import threading

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.folder import folder_source, unlabelled
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.prepare import forget_others, prepare
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec, picture, save, square_mask


@pytest.fixture
def source(tmp_path):
    return mvtec_source(make_mvtec(tmp_path / "data"), "plate")


def test_images_masks_and_samples_agree(source, tmp_path):
    sets = prepare(source, Preprocessing(16), tmp_path / "cache")
    train, test = sets["train"], sets["test"]
    assert (len(train), len(test)) == (3, 5)
    assert train.squares.shape == (3, 16, 16, 3) and train.squares.dtype == np.uint8
    assert not train.masks.any() and train.has_mask.all()
    assert test.labels.tolist() == [1, 1, 0, 0, 1]
    assert test.has_mask.all()
    assert test.masks.any(axis=(1, 2)).tolist() == [True, True, False, False, True]
    assert test.masks[0, :8, :8].all() and test.masks[0].sum() == 64
    assert [s.name for s in test.samples] == [s.name for s in source.samples[3:]]


def test_real_data(shared, tmp_path):
    sets = prepare(mvtec_source(shared / "data" / "mvtec", "bottle"), Preprocessing(64), tmp_path)
    assert (len(sets["train"]), len(sets["test"])) == (209, 83)
    assert sets["test"].masks.any(axis=(1, 2)).sum() == 63


def test_taking_some(source, tmp_path):
    test = prepare(source, Preprocessing(16), tmp_path / "cache")["test"]
    some = test.take(np.array([4, 2]))
    assert [sample.name for sample in some.samples] == [test.samples[4].name, test.samples[2].name]
    np.testing.assert_array_equal(some.squares[0], test.squares[4])
    np.testing.assert_array_equal(some.masks[1], test.masks[2])


def test_the_second_time_nothing_is_decoded(source, tmp_path, monkeypatch):
    first = prepare(source, Preprocessing(16), tmp_path / "cache")
    monkeypatch.setattr("ddad_jax.data.files.read.read_image", None)
    again = prepare(source, Preprocessing(16), tmp_path / "cache")
    for split in ("train", "test"):
        assert first[split].samples == again[split].samples
        np.testing.assert_array_equal(first[split].squares, again[split].squares)
        np.testing.assert_array_equal(first[split].masks, again[split].masks)


def test_content_and_settings_name_the_cache(source, tmp_path):
    cache = tmp_path / "cache"
    prepare(source, Preprocessing(16), cache)
    prepare(source, Preprocessing(12), cache)
    prepare(source, Preprocessing(16, "pad"), cache)
    assert len(list(cache.iterdir())) == 3
    save(picture(77), source.samples[0].image)
    changed = prepare(source, Preprocessing(16), cache)["train"].squares[0]
    assert len(list(cache.iterdir())) == 4
    np.testing.assert_array_equal(
        changed[8, 8], prepare(source, Preprocessing(16), cache)["train"].squares[0][8, 8]
    )
    os.utime(source.samples[0].image)
    prepare(source, Preprocessing(16), cache)
    assert len(list(cache.iterdir())) == 4


def test_a_broken_off_run_leaves_no_cache(source, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ddad_jax.data.preprocessing.fit_mask", stop)
        prepare(source, Preprocessing(16), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert len(prepare(source, Preprocessing(16), tmp_path / "cache")["test"]) == 5


def test_processes_may_race(source, tmp_path):
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(prepare(source, Preprocessing(16), tmp_path / "cache"))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(result["test"]) for result in results] == [5] * 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_unknown_images_have_no_known_mask(tmp_path):
    save(picture(), tmp_path / "in/a.png")
    sets = prepare(unlabelled(tmp_path / "in"), Preprocessing(16), tmp_path / "cache")
    assert len(sets["train"]) == 0 and sets["train"].squares.shape == (0, 16, 16, 3)
    assert sets["test"].labels.tolist() == [-1] and not sets["test"].has_mask.any()


def test_defects_without_mask(tmp_path):
    save(picture(), tmp_path / "good/a.png")
    save(picture(), tmp_path / "test/bad/a.png")
    save(picture(), tmp_path / "test/good/a.png")
    source = folder_source(tmp_path / "good", test=tmp_path / "test")
    test = prepare(source, Preprocessing(16), tmp_path / "cache")["test"]
    assert test.has_mask.tolist() == [False, True] and not test.masks.any()


def test_a_truncated_image_is_an_error_or_is_skipped_with_a_warning(source, tmp_path, caplog):
    broken = source.samples[1].image
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"good/001\.png: .*set data.on_unreadable='skip'"):
        prepare(source, Preprocessing(16), tmp_path / "cache")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "absl"):
            sets = prepare(source, Preprocessing(16), tmp_path / "cache", on_unreadable="skip")
        assert [s.name[-7:] for s in sets["train"].samples] == ["000.png", "002.png"]
        np.testing.assert_array_equal(
            sets["train"].squares[1], prepare_alone(source.samples[2], tmp_path)
        )
        warnings = [record.message for record in caplog.records if "left out" in record.message]
        assert len(warnings) == 1 and str(broken) in warnings[0]


def prepare_alone(sample, tmp_path):
    return prepare(unlabelled(sample.image), Preprocessing(16), tmp_path / "alone")["test"].squares[
        0
    ]


def test_nothing_left_to_learn_from(source, tmp_path):
    for sample in source.samples[:3]:
        sample.image.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 3 train images can be read; .* is empty"):
        prepare(source, Preprocessing(16), tmp_path / "cache", on_unreadable="skip")


@pytest.mark.parametrize("on_unreadable", ["error", "skip"])
def test_a_mask_of_another_size_than_its_image(source, tmp_path, on_unreadable):
    save(square_mask(10, 30), source.samples[3].mask)
    message = (
        r"dent/000_mask\.png: the mask is 10×30 pixels, but its image .*dent/000\.png is 24×20"
    )
    with pytest.raises(UserError, match=message):
        prepare(source, Preprocessing(16), tmp_path / "cache", on_unreadable=on_unreadable)


def test_an_unreadable_mask_is_never_skipped(source, tmp_path):
    source.samples[3].mask.write_bytes(b"")
    with pytest.raises(UserError, match=r"dent/000_mask\.png: is empty"):
        prepare(source, Preprocessing(16), tmp_path / "cache", on_unreadable="skip")


def test_a_cache_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="data.cache: cannot write '.*file"):
        prepare(source, Preprocessing(16), tmp_path / "file" / "cache")


def test_contents_follow_what_the_networks_see_alone(source, tmp_path):
    before = prepare(source, Preprocessing(16), tmp_path / "cache")["train"].contents
    image = source.samples[0].image
    image.rename(image.with_name("other.png"))
    Image.open(source.samples[1].image).save(image.with_name("001.bmp"))
    source.samples[1].image.unlink()
    again = mvtec_source(source.samples[0].image.parents[3], "plate")
    after = prepare(again, Preprocessing(16), tmp_path / "cache")["train"].contents
    assert set(before) == set(after) and len(set(before)) == 3
    other = prepare(again, Preprocessing(16, "pad"), tmp_path / "cache")["train"].contents
    assert not set(other) & set(before)


def test_tiles_of_a_photograph_stay_together(source, tmp_path):
    tiled = Preprocessing(16, tile=10, overlap=2)
    test = prepare(source, tiled, tmp_path / "cache")["test"]
    counts = np.diff(test.starts)
    assert len(test) == 5 and (counts == 9).all() and len(test.squares) == 45
    image = source.read_image(test.samples[1])
    np.testing.assert_array_equal(test.squares[9:18], tiled.squares(image))
    assert not test.masks.any() and test.has_mask.all()
    assert test.sizes.tolist() == [[20, 24]] * 5
    some = test.take(np.array([3, 1]))
    np.testing.assert_array_equal(some.squares[9:], test.squares[9:18])
    assert some.starts.tolist() == [0, 9, 18]
    assert some.contents == (test.contents[3], test.contents[1])


def test_an_image_smaller_than_a_tile_is_named(source, tmp_path):
    message = r"good/000\.png: data.tiling.tile: tiles of 48×48 do not fit an image of 24×20"
    with pytest.raises(UserError, match=message):
        prepare(source, Preprocessing(16, tile=48), tmp_path)


def test_older_caches_of_the_same_data_are_forgotten_and_nothing_else(source, tmp_path):
    cache = tmp_path / "cache"
    prepare(source, Preprocessing(16), cache)
    save(picture(77), source.samples[0].image)
    images = prepare(source, Preprocessing(16), cache)["train"]
    (cache / "latents-1.npy").touch()
    (cache / "some-folder").mkdir()
    forget_others(cache, images)
    left = sorted(path.name for path in cache.iterdir() if path.is_dir())
    assert len(left) == 2 and "some-folder" in left
    assert (cache / "latents-1.npy").exists() and images.squares[0].any()


def test_a_split_without_images_forgets_nothing(tmp_path):
    save(picture(), tmp_path / "in/a.png")
    sets = prepare(unlabelled(tmp_path / "in"), Preprocessing(16), tmp_path / "cache")
    forget_others(tmp_path / "cache", sets["train"])
    assert len(list((tmp_path / "cache").iterdir())) == 1
