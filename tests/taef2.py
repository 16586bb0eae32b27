"""The tiny autoencoder of 32-channel latents, from its public layout: a real image autoencoder for `FrameLatents`."""

from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

WIDTH, POOL, CHANNELS = 64, 256, 32


class Block(nn.Module):
    """Three convolutions and a residual; with `pool` also a look at wider features before."""

    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        self.pool = None
        if pool:
            wide, narrow = nn.Conv2d(WIDTH, POOL, 1, bias=False), nn.Conv2d(POOL, WIDTH, 1, bias=False)
            self.pool = nn.Sequential(wide, nn.GroupNorm(4, POOL), nn.ReLU(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + x).relu()


class Squash(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


def encoder() -> nn.Sequential:
    def down() -> nn.Conv2d:
        return nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False)

    stem, head = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, CHANNELS, 3, padding=1)
    first = [stem, Block(), down(), *(Block() for _ in range(3)), down(), *(Block() for _ in range(3)), down()]
    return nn.Sequential(*first, *(Block(pool=True) for _ in range(3)), head)


def decoder() -> nn.Sequential:
    def up() -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]

    stem, head = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 3, 3, padding=1)
    first = [Squash(), stem, nn.ReLU(), *(Block(pool=True) for _ in range(3)), *up(), *(Block() for _ in range(3))]
    return nn.Sequential(*first, *up(), *(Block() for _ in range(3)), *up(), Block(), head)


class TAEF2(ModelMixin, ConfigMixin):
    """Images `(N, 3, H, W)` in [-1, 1] to latents `(N, 32, H / 8, W / 8)` and back.

    Args:
        folder: Of `taef2_encoder.pth` and `taef2_decoder.pth`; None leaves random weights, as for a pipeline's folder.
    """

    @register_to_config
    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), decoder()
        if folder is not None and Path(folder).is_dir():
            for part in ("encoder", "decoder"):
                weights = torch.load(Path(folder, f"taef2_{part}.pth"), weights_only=True)
                getattr(self, part).load_state_dict({name: weight.float() for name, weight in weights.items()})

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder((images + 1) / 2)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents).clamp(0, 1) * 2 - 1
