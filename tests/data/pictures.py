"""Small pictures and folders of them, for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int = 0, width: int = 24, height: int = 20) -> np.ndarray:
    """A smooth colour picture, so that lossy formats keep it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def save(pixels: np.ndarray, path: Path, **options) -> Path:
    """Writes pixels to a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def square_mask(width: int = 24, height: int = 20, value: int = 255) -> np.ndarray:
    """A mask whose upper left quarter is marked."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, : width // 2] = value
    return mask


def make_mvtec(root: Path, category: str = "plate") -> Path:
    """A data set in the layout of MVTec AD: 3 train, 2 good and 2 + 1 defective test images."""
    home = root / category
    for index in range(3):
        save(picture(index), home / f"train/good/{index:03d}.png")
    for index in range(2):
        save(picture(10 + index), home / f"test/good/{index:03d}.png")
    for defect, count in (("dent", 2), ("scratch", 1)):
        for index in range(count):
            save(picture(20 + index), home / f"test/{defect}/{index:03d}.png")
            save(square_mask(), home / f"ground_truth/{defect}/{index:03d}_mask.png")
    return root


def make_btad(root: Path) -> Path:
    """The three products of BTAD, with the kinds of file that each has."""
    for category, image, mask in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        home = root / category
        for index in range(3):
            save(picture(index), home / f"train/ok/{index:04d}.{image}")
        for index in range(2):
            save(picture(10 + index), home / f"test/ok/{index:04d}.{image}")
            save(picture(20 + index), home / f"test/ko/{index:04d}.{image}")
            save(square_mask(), home / f"ground_truth/ko/{index:04d}.{mask}")
    return root


def make_visa(root: Path, categories: tuple[str, ...] = ("candle", "pcb1")) -> Path:
    """VisA as released: 4 normal images, 3 to train on, and 2 anomalous ones in each category."""
    rows = ["object,split,label,image,mask"]
    for category in categories:
        images = f"{category}/Data/Images"
        for index in range(4):
            name = f"{images}/Normal/{index:04d}.JPG"
            save(picture(index), root / name)
            rows.append(f"{category},{'train' if index < 3 else 'test'},normal,{name},")
        for index in range(2):
            name = f"{images}/Anomaly/{index:03d}.JPG"
            mask = f"{category}/Data/Masks/Anomaly/{index:03d}.png"
            save(picture(20 + index), root / name)
            # The released masks hold small class numbers.
            save(square_mask(value=index + 1), root / mask)
            rows.append(f"{category},test,anomaly,{name},{mask}")
    (root / "split_csv").mkdir(parents=True)
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root


def make_rearranged_visa(root: Path, category: str = "candle") -> Path:
    """One category of VisA as its authors' script lays it out."""
    home = root / category
    for index in range(3):
        save(picture(index), home / f"train/good/{index:04d}.JPG")
    save(picture(3), home / "test/good/0003.JPG")
    for index in range(2):
        save(picture(20 + index), home / f"test/bad/{index:03d}.JPG")
        save(square_mask(), home / f"ground_truth/bad/{index:03d}.png")
    return root


def make_mvtec_ad2(root: Path, category: str = "can") -> Path:
    """One object of MVTec AD 2: 3 train, 2 validation, 1 + 2 public and 2 of each private image."""
    home = root / category
    for index in range(3):
        save(picture(index), home / f"train/good/{index:03d}_regular.png")
    for index in range(2):
        save(picture(5 + index), home / f"validation/good/{index:03d}_regular.png")
    public = home / "test_public"
    save(picture(10), public / "good/000_regular.png")
    for index, lighting in enumerate(("overexposed", "shift_1")):
        save(picture(20 + index), public / f"bad/{index:03d}_{lighting}.png")
        save(square_mask(), public / f"ground_truth/bad/{index:03d}_{lighting}_mask.png")
    for index in range(2):
        save(picture(30 + index), home / f"test_private/{index:03d}_regular.png")
        save(picture(40 + index), home / f"test_private_mixed/{index:03d}_mixed.png")
    return root


def make_mvtec_loco(root: Path, category: str = "pushpins") -> Path:
    """One category of MVTec LOCO AD, with a logical anomaly of two masks and a structural one."""
    home = root / category
    for index in range(3):
        save(picture(index), home / f"train/good/{index:03d}.png")
    for index in range(2):
        save(picture(5 + index), home / f"validation/good/{index:03d}.png")
    save(picture(10), home / "test/good/000.png")
    marked = home / "ground_truth"
    save(picture(20), home / "test/logical_anomalies/000.png")
    save(square_mask(value=255), marked / "logical_anomalies/000/000.png")
    save(np.roll(square_mask(value=254), 6, axis=1), marked / "logical_anomalies/000/001.png")
    save(picture(21), home / "test/structural_anomalies/000.png")
    save(square_mask(value=251), marked / "structural_anomalies/000/000.png")
    kinds = (
        ("missing_pushpin", 255, 30, False),
        ("two_pushpins", 254, 10**6, False),
        ("broken", 251, 0.5, True),
    )
    table = [
        {
            "defect_name": name,
            "pixel_value": value,
            "saturation_threshold": threshold,
            "relative_saturation": relative,
        }
        for name, value, threshold, relative in kinds
    ]
    (home / "defects_config.json").write_text(json.dumps(table))
    return root


def make_mvtec_3d(root: Path, category: str = "bagel") -> Path:
    """One category of MVTec 3D-AD, whose good test images have empty masks."""
    home = root / category
    (home / "calibration").mkdir(parents=True)
    (home / "calibration/camera_parameters.json").write_text("{}")
    for split, count in (("train", 3), ("validation", 2)):
        for index in range(count):
            save(picture(index + len(split)), home / f"{split}/good/rgb/{index:03d}.png")
            save(np.zeros((20, 24), np.float32), home / f"{split}/good/xyz/{index:03d}.tiff")
    for seed, (kind, value) in enumerate((("good", 0), ("hole", 255))):
        save(picture(20 + seed), home / f"test/{kind}/rgb/000.png")
        save(square_mask(value=value), home / f"test/{kind}/gt/000.png")
        save(np.zeros((20, 24), np.float32), home / f"test/{kind}/xyz/000.tiff")
    return root


def make_real_iad(root: Path, category: str = "audiojack", nested: bool = True) -> Path:
    """One category of Real-IAD: two views of two good parts to learn from, and a bad one."""
    home = root / "realiad_1024" / category
    table: dict[str, Any] = {"meta": {"normal_class": "OK", "prefix": f"{category}/"}}
    table |= {"train": [], "test": []}
    for seed, (part, split, kind) in enumerate(
        ((1, "train", "OK"), (2, "train", "OK"), (3, "test", "OK"), (4, "test", "BX"))
    ):
        folder = f"OK/S{part:04d}" if kind == "OK" else f"NG/{kind}/S{part:04d}"
        # As released: two underscores before the number of a bad part of some categories.
        word = f"_{part:04d}_OK" if kind == "OK" else f"__{part:04d}_NG_{kind}"
        for view in (1, 2):
            stem = f"{folder}/{category}{word}_C{view}_20230915102029"
            save(picture(10 * seed + view), home / f"{stem}.jpg")
            # The defect is not seen from everywhere.
            seen = kind != "OK" and view == 1
            if seen:
                save(square_mask(), home / f"{stem}.png")
            table[split].append(
                {
                    "category": category,
                    "anomaly_class": kind if seen else "OK",
                    "image_path": f"{stem}.jpg",
                    "mask_path": f"{stem}.png" if seen else None,
                }
            )
    splits = root / "realiad_jsons" / ("realiad_jsons" if nested else "")
    splits.mkdir(parents=True, exist_ok=True)
    (splits / f"{category}.json").write_text(json.dumps(table))
    return root


def make_ksdd(root: Path) -> Path:
    """KolektorSDD: three items of five images; one image of each has a defect."""
    for item in range(1, 4):
        for part in range(5):
            stem = f"kos{item:02d}/Part{part}"
            save(picture(10 * item + part), root / f"{stem}.jpg")
            save(square_mask(value=255 * (part == 2)), root / f"{stem}_label.bmp")
    return root


def make_ksdd2(root: Path) -> Path:
    """KolektorSDD2: three training and two test images, one of each defective."""
    for split, numbers in (("train", (10000, 10001, 10002)), ("test", (20000, 20001))):
        for number in numbers:
            save(picture(number), root / f"{split}/{number}.png")
            marked = square_mask(value=255 * (number % 10000 == 1))
            save(marked, root / f"{split}/{number}_GT.png")
    return root


def make_dagm(root: Path, category: str = "Class1") -> Path:
    """One class of DAGM 2007: three training and two test images, one of each defective."""
    for split, numbers in (("Train", (576, 577, 578)), ("Test", (1, 2))):
        home = root / category / split
        lines = ["1"]
        for number in numbers:
            save(picture(number), home / f"{number:04d}.PNG")
            defective = number in (577, 2)
            if defective:
                save(square_mask(), home / f"Label/{number:04d}_label.PNG")
            mask = f"{number:04d}_label.PNG" if defective else "0"
            lines.append(f"{number}\t{int(defective)}\t{number:04d}.PNG\t0\t{mask}")
        (home / "Label/Labels.txt").write_text("\n".join(lines))
    return root
