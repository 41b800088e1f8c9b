"""The published autoencoder and extractor in PyTorch, with the names of the published weights."""

import diffusers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddad_jax.models.extractor import IMAGENET_MEAN, IMAGENET_STD


class StableDiffusion(nn.Module):
    """Stable Diffusion's autoencoder as diffusers has it, for images in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.network = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )

    def load_state_dict(self, weights: dict[str, Tensor]):
        """Loads a state dict with the published names."""
        return self.network.load_state_dict(weights)

    def encode(self, images: Tensor) -> Tensor:
        return self.network.encode(images).latent_dist.mean

    def decode(self, latent: Tensor) -> Tensor:
        return self.network.decode(latent).sample


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a residual connection."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(h)) + shortcut)


class ResNet34(nn.Module):
    """torchvision's network: the features of images in [-1, 1] at strides 4, 8 and 16."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._stage(64, 64, 3, 1)
        self.layer2 = self._stage(64, 128, 4, 2)
        self.layer3 = self._stage(128, 256, 6, 2)
        self.layer4 = self._stage(256, 512, 3, 2)
        self.fc = nn.Linear(512, 1000)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def _stage(self, inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        later = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *later)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = ((images + 1.0) / 2.0 - self.mean) / self.std
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        first = self.layer1(x)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]
