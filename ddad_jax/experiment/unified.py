"""Several categories in one detector: networks and banks of all, a calibration for each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ddad_jax.data.image_set import ImageSet, joined
from ddad_jax.errors import UserError
from ddad_jax.experiment.category import Category, Subject
from ddad_jax.experiment.schema import Config


@dataclass(frozen=True, eq=False)
class Unified(Subject):
    """Several categories in one detector.

    Attributes:
      several: the categories, each divided as it would be alone; the results on their test images
        are in their folders, and the networks and the detector in the folder above.
    """

    several: tuple[Category, ...]

    @property
    def categories(self) -> Sequence[Category]:
        """The categories that it is made of."""
        return self.several

    @cached_property
    def division(self) -> tuple[ImageSet, ImageSet]:
        """The images of all categories, one category after the other.

        Raises:
          UserError: two categories have an image in common.
        """
        owners: dict[str, str] = {}
        for category in self.several:
            for content in category.images["train"].contents:
                owner = owners.setdefault(content, category.name)
                if owner != category.name:
                    raise UserError(
                        f"data.category: {owner} and {category.name} have a good image in common, "
                        "so that a detector of both could not tell which it is of; take it out of "
                        "one of them"
                    )
        kept, heldout = zip(*(category.division for category in self.several), strict=True)
        return joined(kept), joined(heldout)

    @property
    def undecided(self) -> str:
        """See `Subject`."""
        return "planted defects decide for one category at a time"

    def variant(self, config: Config, workdir: Path) -> "Unified":
        """See `Subject`; its categories have the settings too, and keep their folders."""
        several = tuple(each.variant(config, each.workdir) for each in self.several)
        other = replace(self, config=config, workdir=workdir, several=several)
        self.hand_over(other)
        return other
