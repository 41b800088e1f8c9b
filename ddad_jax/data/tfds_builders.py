"""TFDS builders of MVTec AD, VisA and BTAD, which write ArrayRecord without TensorFlow.

Their licences forbid automatic download, so each reads a folder that the user has unpacked:

    write_tfds("mvtec_ad", "bottle", manual_dir="/data/mvtec", data_dir="/data/tfds")

Images keep the bytes of their files; masks become black and white PNG, all black without a defect.
Samples keep the order of the source that reads the folder.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Bool
from PIL import Image

from ddad_jax.data.btad import btad_source
from ddad_jax.data.files import FileSource, require_root
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.visa import visa_source
from ddad_jax.errors import UserError


# TFDS has no types.
class FolderBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Writes what a source reads from the manual folder; each config is a category."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack the data set; manual_dir is the folder of categories."
    open_source: Callable[..., FileSource] = staticmethod(mvtec_source)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "has_mask": np.bool_,
                    "label": np.int64,
                    "defect": tfds.features.Text(),
                    "name": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        source = self.open_source(str(dl_manager.manual_dir), self.builder_config.name)
        return {split: self._generate_examples(source, split) for split in ("train", "test")}

    def _generate_examples(self, source: FileSource, split: str) -> Iterator[tuple[int, dict]]:
        samples = [sample for sample in source.samples if sample.split == split]
        for index, sample in enumerate(samples):
            mask = source.read_mask(sample)
            if mask is None:
                mask = np.zeros(source.read_image(sample).shape[:2], bool)
            yield (
                index,
                {
                    "image": sample.file.read_bytes(),
                    "mask": _encode_mask(mask),
                    "has_mask": sample.mask is not None,
                    "label": sample.label,
                    "defect": sample.defect,
                    "name": sample.name,
                },
            )


def _configs(*categories: str) -> list[tfds.core.BuilderConfig]:
    return [tfds.core.BuilderConfig(name=category) for category in categories]


class MvtecAd(FolderBuilder):
    """MVTec AD (Bergmann et al., CVPR 2019), CC BY-NC-SA 4.0."""

    BUILDER_CONFIGS = _configs(
        *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
        *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
    )


class Visa(FolderBuilder):
    """VisA (Zou et al., ECCV 2022), CC BY 4.0; as released or rearranged."""

    BUILDER_CONFIGS = _configs(
        *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
        *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
    )
    open_source = staticmethod(visa_source)


class Btad(FolderBuilder):
    """BeanTech Anomaly Detection (Mishra et al., ISIE 2021), CC BY-NC-SA 4.0."""

    BUILDER_CONFIGS = _configs("01", "02", "03")
    open_source = staticmethod(btad_source)


def write_tfds(dataset: str, category: str, manual_dir: str | Path, data_dir: str | Path) -> Path:
    """Writes one category as ArrayRecord, unless it exists, and returns its folder.

    Args:
        dataset: "mvtec_ad", "visa" or "btad".
        category: a folder in `manual_dir`; it need not be a published category.
        manual_dir: the unpacked data set.
        data_dir: the TFDS data directory to write to.

    Raises:
        UserError: there is no such data set, or its folder is not as expected.
    """
    builders = {builder.name: builder for builder in (MvtecAd, Visa, Btad)}
    if dataset not in builders:
        raise UserError(
            f"data.settings.dataset: '{dataset}' is not one of {', '.join(sorted(builders))}"
        )
    manual = require_root(manual_dir)
    published = {config.name: config for config in builders[dataset].BUILDER_CONFIGS}
    builder = builders[dataset](
        config=published.get(category) or tfds.core.BuilderConfig(name=category),
        data_dir=data_dir,
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=epath.Path(manual))
    )
    return Path(builder.data_dir)


def _encode_mask(mask: Bool[np.ndarray, "h w"]) -> bytes:
    encoded = BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(encoded, "png")
    return encoded.getvalue()
