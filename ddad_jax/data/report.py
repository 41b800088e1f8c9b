"""What is in a data set, and what in it would spoil a result."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from tqdm import tqdm

from ddad_jax.data.parallel import map_in_threads
from ddad_jax.data.prepare import require_equal_sizes
from ddad_jax.data.resize import fit_mask
from ddad_jax.data.sample import ANOMALOUS, Sample, Source
from ddad_jax.errors import UserError


@dataclass(frozen=True)
class DatasetReport:
    """The findings of `inspect`; samples are named as in the source.

    Attributes:
        counts: images and masks of each category, split and defect.
        sizes: images of each width and height, as decoded.
        unreadable: why each image that cannot be read cannot.
        bad_masks: why each mask that cannot be used cannot: unreadable, or not of its image's size.
        empty_masks: defective samples whose mask marks nothing.
        vanishing_masks: defective samples whose mask marks nothing at the working size.
        missing_masks: defective samples without a mask, where others have one.
        duplicates: pairs of a training and a test sample with the same pixels.
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
    unreadable_is_skipped: bool

    @property
    def is_spoiled(self) -> bool:
        """Whether results on this data set would be wrong or could not be computed."""
        unreadable = self.unreadable and not self.unreadable_is_skipped
        return bool(unreadable or self.bad_masks or self.empty_masks or self.duplicates)

    def __str__(self) -> str:
        """The report as tables, and a list of every problem."""
        rows = [
            (category or "-", split, defect, str(images), str(masks) if masks else "-")
            for (category, split, defect), (images, masks) in self.counts.items()
        ]
        sizes = [
            (f"{width}×{height}", str(count))
            for (width, height), count in sorted(self.sizes.items())
        ]
        text = [
            *_columns(("category", "split", "defect", "images", "masks"), rows),
            "",
            *_columns(("size", "images"), sizes),
        ]
        fate = "left out" if self.unreadable_is_skipped else "spoils"
        problems = [
            ("unreadable image", fate, self.unreadable),
            ("unusable mask", "spoils", self.bad_masks),
            ("mask marks nothing", "spoils", self.empty_masks),
            ("in train and in test", "spoils", [" = ".join(pair) for pair in self.duplicates]),
            ("mask vanishes at the working size", "warning", self.vanishing_masks),
            ("mask missing", "warning", self.missing_masks),
        ]
        for title, weight, names in problems:
            if names:
                text += ["", f"{title} ({weight}): {len(names)}", *(f"  {name}" for name in names)]
        verdict = "would spoil results" if self.is_spoiled else "ready"
        return "\n".join([*text, "", f"verdict: {verdict}"])


@dataclass(frozen=True)
class _Finding:
    """What one sample's files hold; `size` and `pixels` are None where they cannot be read."""

    size: tuple[int, int] | None = None
    pixels: bytes | None = None
    unreadable: str | None = None
    has_mask: bool = False
    bad_mask: str | None = None
    mask_is_empty: bool = False
    mask_vanishes: bool = False


def inspect(
    source: Source, size: int | None = 256, resize: str = "stretch", on_unreadable: str = "error"
) -> DatasetReport:
    """Reads every image and mask of a data set once and reports what there is.

    Args:
        source: the data set.
        size: the side at which masks will be used, in pixels; None for that of the images.
        resize: how they will be brought there; see `resize`.
        on_unreadable: "skip" if unreadable images are to be left out, which then spoils nothing.
    """

    def look(sample: Sample) -> _Finding:
        return _look(source, sample, size, resize)

    findings = dict(
        tqdm(
            map_in_threads(look, source.samples),
            total=len(source.samples),
            desc="inspect",
            unit="image",
            disable=None,
        )
    )
    return _summarise(source.samples, findings, on_unreadable == "skip")


def _look(source: Source, sample: Sample, size: int | None, resize: str) -> _Finding:
    try:
        image = source.read_image(sample)
    except UserError as error:
        return _Finding(unreadable=str(error))
    known = {
        "size": (image.shape[1], image.shape[0]),
        "pixels": blake2b(image.tobytes() + repr(image.shape).encode()).digest(),
    }
    try:
        mask = source.read_mask(sample)
        if mask is None:
            return _Finding(**known)
        require_equal_sizes(sample, image, mask)
    except UserError as error:
        return _Finding(**known, has_mask=True, bad_mask=str(error))
    is_empty = not mask.any()
    vanishes = size is not None and not is_empty and not fit_mask(mask, size, resize).any()
    return _Finding(**known, has_mask=True, mask_is_empty=is_empty, mask_vanishes=vanishes)


def _summarise(
    samples: Sequence[Sample], findings: dict[Sample, _Finding], skips: bool
) -> DatasetReport:
    images = Counter((s.category, s.split, s.defect) for s in samples)
    masks = Counter((s.category, s.split, s.defect) for s in samples if findings[s].has_mask)
    trained = {
        findings[s].pixels: s.name for s in samples if s.split == "train" and findings[s].pixels
    }
    defective = [s for s in samples if s.label == ANOMALOUS]

    def lacks_mask(finding: _Finding) -> bool:
        return finding.size is not None and not finding.has_mask

    return DatasetReport(
        counts={key: (count, masks[key]) for key, count in images.items()},
        sizes=dict(Counter(f.size for f in findings.values() if f.size is not None)),
        unreadable=_reasons(f.unreadable for f in findings.values()),
        bad_masks=_reasons(f.bad_mask for f in findings.values()),
        empty_masks=tuple(s.name for s in defective if findings[s].mask_is_empty),
        vanishing_masks=tuple(s.name for s in defective if findings[s].mask_vanishes),
        missing_masks=tuple(s.name for s in defective if masks and lacks_mask(findings[s])),
        duplicates=tuple(
            (trained[findings[s].pixels], s.name)
            for s in samples
            if s.split == "test" and findings[s].pixels in trained
        ),
        unreadable_is_skipped=skips,
    )


def _reasons(found: Iterable[str | None]) -> tuple[str, ...]:
    """Each reason once."""
    return tuple(dict.fromkeys(reason for reason in found if reason))


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; what is counted stands to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if name in ("images", "masks") else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ).rstrip()
        for row in table
    ]
