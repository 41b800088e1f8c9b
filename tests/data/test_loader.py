import json

import numpy as np
import pytest

from ddad_jax.data.loader import training_batches


def arrays(count=10):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    return {"image": images}


def indices(batches, count):
    return [next(batches)["index"].tolist() for _ in range(count)]


def test_batches_hold_the_rows_they_name():
    with_latents = {**arrays(), "latent": np.arange(10.0)}
    batch = next(training_batches(with_latents, 4, seed=0))
    assert batch["image"].shape == (4, 4, 4, 3) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["latent"], batch["index"])


def test_each_epoch_holds_every_sample_once_in_an_order_of_its_own():
    stream = np.concatenate(indices(training_batches(arrays(), 5, seed=0), 6)).reshape(3, 10)
    for epoch in stream:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in stream}) == 3


def test_batches_larger_than_the_data_set_continue_into_the_next_epoch():
    batch = next(training_batches(arrays(3), 8, seed=0))
    assert sorted(batch["index"][:3]) == sorted(batch["index"][3:6]) == [0, 1, 2]


def test_the_seed_decides():
    first, again, other = (indices(training_batches(arrays(), 5, seed), 3) for seed in (1, 1, 2))
    assert first == again != other


def test_state_is_json_and_restores_exactly():
    batches = training_batches(arrays(), 3, seed=0, augmentations=(add_noise,))
    for _ in range(5):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(4)]
    restored = training_batches(arrays(), 3, seed=0, augmentations=(add_noise,))
    restored.set_state(state)
    for batch in expected:
        other = next(restored)
        np.testing.assert_array_equal(batch["image"], other["image"])
    batches.set_state(state)
    np.testing.assert_array_equal(next(batches)["image"], expected[0]["image"])


@pytest.mark.parametrize("process_count", [2, 3])
def test_processes_divide_the_same_batches(process_count):
    alone = training_batches(arrays(), 6, seed=4, augmentations=(add_noise,))
    parts = [
        training_batches(
            arrays(), 6, 4, (add_noise,), process_index=index, process_count=process_count
        )
        for index in range(process_count)
    ]
    for _ in range(5):
        together = np.concatenate([next(part)["image"] for part in parts])
        np.testing.assert_array_equal(together, next(alone)["image"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_workers_change_nothing(tmp_path):
    path = tmp_path / "images.raw"
    path.write_bytes(arrays()["image"].tobytes())
    mapped = {"image": np.memmap(path, np.uint8, "r", shape=(10, 4, 4, 3))}
    alone = training_batches(mapped, 4, seed=0, augmentations=(add_noise,))
    shared = training_batches(mapped, 4, seed=0, augmentations=(add_noise,), num_workers=2)
    for _ in range(5):
        np.testing.assert_array_equal(next(alone)["image"], next(shared)["image"])
    state = shared.get_state()
    assert state == alone.get_state()
    shared.close()


def test_augmentations_differ_from_epoch_to_epoch():
    batches = training_batches(arrays(2), 2, seed=0, augmentations=(add_noise,))
    first, second = next(batches), next(batches)
    same_sample = [epoch["image"][epoch["index"] == 0] for epoch in (first, second)]
    assert (same_sample[0] != same_sample[1]).any()


@pytest.mark.parametrize("images", [{}, arrays(0)])
def test_nothing_to_load(images):
    with pytest.raises(ValueError, match="of one length above 0"):
        training_batches(images, 2, 0)


def test_arrays_of_different_length():
    with pytest.raises(ValueError, match="of one length"):
        training_batches({**arrays(3), "latent": np.zeros(4)}, 2, 0)


def test_a_batch_that_processes_cannot_divide():
    with pytest.raises(ValueError, match="batch_size 5 is not a multiple of 2 processes"):
        training_batches(arrays(), 5, 0, process_count=2)


def add_noise(record, rng):
    noise = rng.integers(0, 9, record["image"].shape, dtype=np.uint8)
    return {**record, "image": record["image"] + noise}
