"""Reports what is in a data set, and what would spoil a result."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddad_jax.data.sample import ANOMALOUS, Source
from ddad_jax.errors import UserError

# The most lines shown on a screen for sizes, and for each kind of problem.
SHOWN = 8


@dataclass(frozen=True)
class DatasetReport:
    """What was found when a data set was prepared; samples are named as in the source.

    Attributes:
        counts: numbers of images and masks, by category, split (or "validation") and defect.
        sizes: numbers of images, by width and height as decoded.
        unreadable: for each image that cannot be read, the reason.
        bad_masks: for each unusable mask, the reason: unreadable, or not of its image's size.
        empty_masks: defective samples whose mask marks nothing.
        vanishing_masks: defective samples whose mask marks nothing at the working size.
        missing_masks: defective samples without a mask, if others have one.
        duplicates: pairs of a training and a test sample that are equal at the working size.
        copies: pairs of training samples that are equal there; the first of each is used.
        unreadable_is_skipped: whether unreadable images are left out by choice.
    """

    counts: dict[tuple[str, str, str], tuple[int, int]]
    sizes: dict[tuple[int, int], int]
    unreadable: tuple[str, ...]
    bad_masks: tuple[str, ...]
    empty_masks: tuple[str, ...]
    vanishing_masks: tuple[str, ...]
    missing_masks: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]
    copies: tuple[tuple[str, str], ...]
    unreadable_is_skipped: bool

    @property
    def is_spoiled(self) -> bool:
        """Whether results on this data set would be wrong, or could not be computed."""
        return any(fate == "spoils" and found for _, fate, found in self._problems)

    @property
    def _problems(self) -> list[tuple[str, str, Sequence[str]]]:
        """For each kind of problem: its name, its effect, and every case."""
        kinds = {sample[2] for sample in self.counts if sample[1] == "test"}
        no_good = "good" not in kinds and kinds - {"unknown"}
        return [
            (
                "unreadable image",
                "left out" if self.unreadable_is_skipped else "spoils",
                self.unreadable,
            ),
            ("unusable mask", "spoils", self.bad_masks),
            ("mask marks nothing", "spoils", self.empty_masks),
            ("in train and in test", "spoils", [" = ".join(pair) for pair in self.duplicates]),
            ("copy among good images", "left out", [" = ".join(pair) for pair in self.copies]),
            ("mask vanishes at the working size", "warning", self.vanishing_masks),
            ("mask missing", "warning", self.missing_masks),
            (
                "no good test image",
                "warning",
                ["false alarms cannot be counted; add good images to the test set"] * bool(no_good),
            ),
        ]

    def require_sound(self) -> None:
        """Raises UserError naming the first problem that would spoil a result, if there is one."""
        spoiling = [
            f"{kind}: {case}"
            for kind, fate, found in self._problems
            if fate == "spoils"
            for case in found
        ]
        if spoiling:
            others = f" and {len(spoiling) - 1} more" if len(spoiling) > 1 else ""
            skip = ", or set data.on_unreadable='skip'" if self.unreadable else ""
            raise UserError(
                f"data: {spoiling[0]}{others}; correct or remove what --mode=prepare lists{skip}"
            )

    def text(self, most: int | None = None) -> str:
        """Returns what was found as tables, and a list of every problem.

        Args:
            most: the most lines for sizes, and for each kind of problem; None for all.
        """
        rows = [
            (category or "-", split, defect, str(images), str(masks) if masks else "-")
            for (category, split, defect), (images, masks) in self.counts.items()
        ]
        usual = sorted(self.sizes.items(), key=lambda each: (-each[1], each[0]))
        sizes = [(f"{width}×{height}", str(count)) for (width, height), count in usual]
        text = [
            *_columns(("category", "split", "defect", "images", "masks"), rows),
            "",
            *_first(_columns(("size", "images"), sizes), most and most + 1),
        ]
        for kind, fate, found in self._problems:
            if found:
                lines = _first([f"  {case}" for case in found], most)
                text += ["", f"{kind} ({fate}): {len(found)}", *lines]
        verdict = "would spoil results" if self.is_spoiled else "ready"
        return "\n".join([*text, "", f"verdict: {verdict}"])


def report_of(source: Source, index: Mapping[str, Any], skips: bool) -> DatasetReport:
    """Returns the report on a data set, from what was recorded when it was prepared.

    Args:
        source: the data set.
        index: what `prepare` recorded of "train" and "test".
        skips: whether images that cannot be read are left out by choice.
    """

    def all_of(name: str) -> tuple[Any, ...]:
        return tuple(found for entry in index.values() for found in entry[name])

    masked = {
        name
        for entry in index.values()
        for name, has_mask in zip(entry["names"], entry["has_mask"], strict=True)
        if has_mask
    }
    read = {*all_of("names")}
    defective = [s for s in source.samples if s.label == ANOMALOUS]
    masks = Counter((s.category, s.split, s.defect) for s in defective if s.name in masked)
    images = Counter(
        (s.category, "validation" if s.validation else s.split, s.defect) for s in source.samples
    )
    train, test = index["train"], index["test"]
    first: dict[str, str] = {}
    copies = []
    for name, content in zip(train["names"], train["contents"], strict=True):
        original = first.setdefault(content, name)
        if original is not name:
            copies.append((original, name))
    return DatasetReport(
        counts={key: (count, masks[key]) for key, count in images.items()},
        sizes=dict(Counter((width, height) for height, width in all_of("sizes"))),
        unreadable=all_of("unreadable"),
        # Several images may share a mask.
        bad_masks=tuple(dict.fromkeys(all_of("bad_masks"))),
        empty_masks=all_of("empty_masks"),
        vanishing_masks=all_of("vanishing_masks"),
        missing_masks=tuple(
            s.name for s in defective if masks and s.name in read and s.name not in masked
        ),
        duplicates=tuple(
            (first[content], name)
            for name, content in zip(test["names"], test["contents"], strict=True)
            if content in first
        ),
        copies=tuple(copies),
        unreadable_is_skipped=skips,
    )


def _first(lines: Sequence[str], most: int | None) -> list[str]:
    """Returns the first of the lines, and one that counts the others."""
    if most is None or len(lines) <= most:
        return [*lines]
    return [*lines[:most], f"  and {len(lines) - most} more"]


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, with counts aligned to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if name in ("images", "masks") else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ).rstrip()
        for row in table
    ]
