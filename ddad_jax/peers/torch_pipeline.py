"""D3AD's inference in PyTorch, in the order and with the passes of the official code.

The input goes through the extractor twice, for the noise level and for the feature map, and the
reconstruction once. Latents are the posterior's mean, and maps are scaled by the detector's
calibration, so that both sides compute the same figures.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddad_jax.detection.detector import Detector
from ddad_jax.models import AutoencoderKL, ResNet
from ddad_jax.models import UNet as FlaxUNet
from ddad_jax.peers.torch_networks import TAEF2, EfficientNetLite0, UNet
from ddad_jax.peers.torch_published import ResNet34, StableDiffusion
from ddad_jax.pretrained import to_state_dict


def unet_like(network: FlaxUNet) -> UNet:
    """Returns the peer of a denoiser; its weights are not loaded yet."""
    return UNet(
        network.sample_size,
        network.in_channels,
        network.base_channels,
        network.channel_multipliers,
        network.attention_resolutions,
        network.num_heads,
        network.num_res_blocks,
    )


def load(module: nn.Module, variables, network) -> nn.Module:
    """Loads the weights of our network into its peer, and returns it."""
    weights = to_state_dict(variables, network)
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return module.eval()


class Pipeline:
    """Computes everything from pixels to heat map, with the weights of one of our detectors.

    The detector is that of `configs/mvtec_small.py` or `configs/mvtec.py`, with scoring "paper" and
    the scaled start.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        device: str = "cpu",
        compiled: bool = False,
        bfloat16: bool = False,
    ):
        """Loads the networks.

        Args:
          detector: its weights, banks and calibration are used.
          device: PyTorch's name of the device.
          compiled: whether the networks are compiled with `torch.compile`.
          bfloat16: whether they run under autocast to bfloat16.
        """
        networks, self.settings = detector.networks, detector.settings
        kl = isinstance(networks.autoencoder, AutoencoderKL)
        resnet = isinstance(networks.extractor, ResNet)
        autoencoder = load(
            StableDiffusion() if kl else TAEF2(), detector.autoencoder, networks.autoencoder
        ).to(device)
        extractor = load(
            ResNet34() if resnet else EfficientNetLite0(), detector.extractor, networks.extractor
        ).to(device)
        denoiser = load(unet_like(networks.denoiser), detector.denoiser, networks.denoiser)
        prepare = torch.compile if compiled else (lambda function: function)
        self._encode, self._decode = prepare(autoencoder.encode), prepare(autoencoder.decode)
        self._extract, self._denoise = prepare(extractor), prepare(denoiser.to(device))
        self.device, self.bfloat16 = device, bfloat16

        bank = np.asarray(detector.bank)
        # Our features are flattened with channels last.
        bank = torch.tensor(bank.reshape(len(bank), 16, 16, -1)).permute(0, 3, 1, 2).flatten(1)
        self.bank = bank.to(device)
        self.shift = self._column(detector.latent_shift)
        self.scale = self._column(detector.latent_scale)
        self.alpha_bar = torch.tensor(np.asarray(detector.alpha_bar), device=device)
        self.bin_edges = torch.tensor(np.asarray(detector.bin_edges), device=device)
        calibration = detector.calibration
        self.location, self.spread = (
            {kind: torch.tensor(np.asarray(value), device=device) for kind, value in kinds.items()}
            for kinds in (calibration.location, calibration.scale)
        )
        radius = round(4 * self.settings.blur)
        taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / self.settings.blur) ** 2)
        self.taps = (taps / taps.sum()).to(device)

    def _column(self, values) -> Tensor:
        return torch.tensor(np.asarray(values), device=self.device)[:, None, None]

    def _autocast(self):
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16)

    def extract(self, pixels: Tensor) -> list[Tensor]:
        """Returns the feature stages, in float32, of images in [-1, 1]."""
        with self._autocast():
            stages = self._extract(pixels)
        return [stage.float() for stage in stages]

    def encode(self, pixels: Tensor) -> Tensor:
        """Returns the scaled latent of images in [-1, 1]."""
        with self._autocast():
            latent = self._encode(pixels)
        return (latent.float() - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Returns images in [-1, 1] from a scaled latent."""
        with self._autocast():
            images = self._decode(latent / self.scale + self.shift)
        return images.float().clamp(-1.0, 1.0)

    @torch.no_grad()
    def detect(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns noise level, heat map, score and reconstruction of uint8 images [b, h, w, 3]."""
        s = self.settings
        pixels = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        latent = self.encode(pixels)
        level = self._noise_level(pixels)
        reconstructed = self.reconstruct(latent, level, s.num_steps)
        decoded = self.decode(reconstructed)
        latent_map = (latent - reconstructed).abs().mean(1, keepdim=True)
        heat = s.latent_weight * self._normalised("latent", self._resized(latent_map), level)
        feature_map = self._feature_map(self.extract(pixels), self.extract(decoded))
        heat = heat + (1.0 - s.latent_weight) * self._normalised("feature", feature_map, level)
        heat = self._blurred(heat)[:, 0]
        return {
            "noise_level": level.cpu().numpy(),
            "heat_map": heat.cpu().numpy(),
            "score": heat.amax((1, 2)).cpu().numpy(),
            "reconstruction": decoded.permute(0, 2, 3, 1).cpu().numpy(),
        }

    def _noise_level(self, pixels: Tensor) -> Tensor:
        s = self.settings
        feature = self.extract(pixels)[s.knn_stage - 1]
        pooled = F.adaptive_avg_pool2d(feature, 16).flatten(1)
        count = min(s.num_neighbours, len(self.bank))
        nearest = torch.cdist(pooled, self.bank, p=1.0).topk(count, largest=False).values
        index = torch.bucketize(nearest.mean(1), self.bin_edges, right=True)
        index = index.clamp(s.min_bin, s.num_bins)
        unit = s.num_bins * s.num_steps
        return (2 * index * s.max_noise_level + unit) // (2 * unit) * s.num_steps

    def reconstruct(self, latent: Tensor, level: Tensor, num_steps: int) -> Tensor:
        """Returns the latent, denoised in `num_steps` steps from a noise level."""
        noisy = self._alpha_bar(level).sqrt() * latent
        stride = level // num_steps
        for step in range(num_steps - 1, -1, -1):
            timestep = step * stride
            a = self._alpha_bar(timestep)
            a_next = self._alpha_bar(timestep - stride if step else torch.full_like(level, -1))
            with self._autocast():
                noise = self._denoise(noisy, timestep)
            noise = noise.float()
            target = a.sqrt() * latent + (1.0 - a).sqrt() * noise
            noise = noise - self.settings.conditioning_weight * (1.0 - a).sqrt() * (target - noisy)
            clean = (noisy - (1.0 - a).sqrt() * noise) / a.sqrt()
            noisy = a_next.sqrt() * clean + (1.0 - a_next).sqrt() * noise
        return noisy

    def _alpha_bar(self, timestep: Tensor) -> Tensor:
        return self.alpha_bar[timestep + 1][:, None, None, None]

    def _feature_map(self, features: list[Tensor], reconstructed: list[Tensor]) -> Tensor:
        chosen = [stage - 1 for stage in self.settings.feature_stages]
        distances = [1.0 - F.cosine_similarity(features[i], reconstructed[i]) for i in chosen]
        return sum(self._resized(distance[:, None]) for distance in distances)

    def _resized(self, maps: Tensor) -> Tensor:
        size = self.settings.image_size
        return F.interpolate(maps, size, mode="bilinear", align_corners=True)

    def _normalised(self, kind: str, maps: Tensor, level: Tensor) -> Tensor:
        level = level[:, None, None, None]
        (location, rise), (spread, growth) = self.location[kind], self.spread[kind]
        return (maps - location - level * rise) / (spread + level * growth)

    def _blurred(self, maps: Tensor) -> Tensor:
        radius = len(self.taps) // 2
        padded = F.pad(maps, [radius] * 4, mode="reflect")
        return F.conv2d(
            F.conv2d(padded, self.taps[None, None, :, None]), self.taps[None, None, None, :]
        )
