"""The networks of `configs/mvtec_small.py` in PyTorch, with the names of the published weights.

Written for comparison: what `ddad_jax.pretrained.to_state_dict` returns can be loaded as it is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPSILON = 1e-3


class TimestepEmbedding(nn.Module):
    """Sines and cosines of the timestep."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, timestep: Tensor) -> Tensor:
        half = self.size // 2
        frequencies = torch.exp(
            -math.log(10000.0) / half * torch.arange(half, device=timestep.device)
        )
        angles = timestep.float()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ResidualBlock(nn.Module):
    """Two normalised convolutions, with the timestep's embedding added between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str = "none"):
        super().__init__()
        change = {"up": nn.Upsample(scale_factor=2), "down": nn.AvgPool2d(2), "none": nn.Identity()}
        self.change = change[resample]
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.embed_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](self.change(self.in_layers[:2](x)))
        h = h + self.embed_layers(embedding)[:, :, None, None]
        return self.skip_connection(self.change(x)) + self.out_layers(h)


class AttentionBlock(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(32, channels)
        self.to_qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.reshape(b, c, h * w)
        qkv = self.to_qkv(self.norm(tokens)).reshape(b, self.num_heads, -1, h * w)
        q, k, v = qkv.transpose(2, 3).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h * w)
        return x + self.proj_out(attended).reshape(b, c, h, w)


class UNet(nn.Module):
    """ε_θ(z_t, t), with the arguments of `ddad_jax.models.UNet`."""

    def __init__(
        self,
        sample_size: int,
        channels: int,
        base_channels: int,
        channel_multipliers: tuple[int, ...],
        attention_resolutions: tuple[int, ...],
        num_heads: int,
        num_res_blocks: int = 2,
    ):
        super().__init__()
        embedding = 4 * base_channels
        self.time_embedding = nn.Sequential(
            TimestepEmbedding(base_channels),
            nn.Linear(base_channels, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        attended = [
            sample_size >> level in attention_resolutions
            for level in range(len(channel_multipliers))
        ]
        width, widths = base_channels, [base_channels]
        self.down = nn.ModuleList([nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])])
        for level, multiplier in enumerate(channel_multipliers):
            for _ in range(num_res_blocks):
                layers = [ResidualBlock(width, multiplier * base_channels, embedding)]
                width = multiplier * base_channels
                if attended[level]:
                    layers.append(AttentionBlock(width, num_heads))
                self.down.append(nn.ModuleList(layers))
                widths.append(width)
            if level < len(channel_multipliers) - 1:
                self.down.append(nn.ModuleList([ResidualBlock(width, width, embedding, "down")]))
                widths.append(width)
        self.middle = nn.ModuleList(
            [
                ResidualBlock(width, width, embedding),
                AttentionBlock(width, num_heads),
                ResidualBlock(width, width, embedding),
            ]
        )
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(channel_multipliers))):
            for block in range(num_res_blocks + 1):
                layers = [
                    ResidualBlock(width + widths.pop(), multiplier * base_channels, embedding)
                ]
                width = multiplier * base_channels
                if attended[level]:
                    layers.append(AttentionBlock(width, num_heads))
                if level and block == num_res_blocks:
                    layers.append(ResidualBlock(width, width, embedding, "up"))
                self.up.append(nn.ModuleList(layers))
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(self, latent: Tensor, timestep: Tensor) -> Tensor:
        embedding = self.time_embedding(timestep)
        h = self.down[0][0](latent)
        skips = [h]
        for layers in self.down[1:]:
            for layer in layers:
                h = layer(h, embedding)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, embedding)
        for layers in self.up:
            h = torch.cat([h, skips.pop()], dim=1)
            for layer in layers:
                h = layer(h, embedding)
        return self.out(h)


class TinyBlock(nn.Module):
    """TAESD's residual block; at the smallest resolution, TAEF2 first adds a normalised branch."""

    def __init__(self, width: int, normalised: bool):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.pool = None
        if normalised:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class Clamp(nn.Module):
    """Bounds latents softly."""

    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * torch.tanh(x / 3.0)


class TAEF2(nn.Module):
    """The tiny autoencoder of FLUX.2's latents, for images in [-1, 1]."""

    def __init__(self, latent_channels: int = 32, width: int = 64):
        super().__init__()
        encoder: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), TinyBlock(width, False)]
        for level in (1, 2, 3):
            encoder.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            encoder += [TinyBlock(width, level == 3) for _ in range(3)]
        encoder.append(nn.Conv2d(width, latent_channels, 3, padding=1))
        decoder = [Clamp(), nn.Conv2d(latent_channels, width, 3, padding=1), nn.ReLU()]
        for level in (3, 2, 1):
            decoder += [TinyBlock(width, level == 3) for _ in range(3)]
            decoder.append(nn.Upsample(scale_factor=2))
            decoder.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        decoder += [TinyBlock(width, False), nn.Conv2d(width, 3, 3, padding=1)]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder)

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder((images + 1.0) / 2.0)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent) * 2.0 - 1.0


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding, which may differ between opposite sides."""

    def forward(self, x: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        amounts = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[:1:-1]]
        pads = [side for amount in amounts for side in (amount // 2, amount - amount // 2)]
        return super().forward(F.pad(x, pads))


class InvertedBottleneck(nn.Module):
    """Expands, filters each channel, and projects."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = expansion * inputs
        self.expands = expansion > 1
        self.adds = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, BATCH_NORM_EPSILON)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, BATCH_NORM_EPSILON)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, BATCH_NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.adds else h


class EfficientNetLite0(nn.Module):
    """The features of images in [-1, 1] at strides 4, 8 and 16."""

    # Kernel, blocks, stride of the first, expansion, channels.
    STAGES = (
        (3, 1, 1, 1, 16),
        (3, 2, 2, 6, 24),
        (5, 2, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (5, 3, 1, 6, 112),
        (5, 4, 2, 6, 192),
        (3, 1, 1, 6, 320),
    )
    FEATURE_ENDS = (2, 4, 10)

    def __init__(self):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, BATCH_NORM_EPSILON)
        blocks, width = [], 32
        for kernel, repeats, stride, expansion, features in self.STAGES:
            for repeat in range(repeats):
                step = 1 if repeat else stride
                blocks.append(InvertedBottleneck(width, features, kernel, step, expansion))
                width = features
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(width, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, BATCH_NORM_EPSILON)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, images: Tensor) -> list[Tensor]:
        h = F.relu6(self._bn0(self._conv_stem(((images + 1.0) * 127.5 - 127.0) / 128.0)))
        stages = []
        for number, block in enumerate(self._blocks[: self.FEATURE_ENDS[-1] + 1]):
            h = block(h)
            if number in self.FEATURE_ENDS:
                stages.append(h)
        return stages
