"""A diffusion transformer for content frames, as the paper trains from scratch where no image model is at hand."""

from __future__ import annotations

from torch import Tensor, nn

from cmd_lightning.networks import Condition, ContentModel, LatentSpec
from cmd_lightning.networks.dit import DiT, pad_to_multiple, unpatchify
from cmd_lightning.networks.unet import velocity_of


class ContentDiT(DiT, ContentModel):
    """Diffusion transformer over patches of the content frame (paper App. B.3: the content model of UCF-101).

    Timestep and pooled condition enter through adaLN. Width 1152, depth 28, 16 heads is DiT-XL; 1024, 24, 16 is DiT-L.

    Args:
        latent_spec: Shapes of content frame and motion latent.
        condition_dim: Channels K of the pooled condition; 0 for an unconditional model.
        width: Channels of the tokens.
        depth: Number of blocks.
        heads: Attention heads; must divide `width`.
        patch_size: Side of a square patch.
        mlp_ratio: Hidden channels of the perceptrons over `width`.
        convolutional: Hidden channels of 3 × 3 convolutions before the patches are cut and after they are put
            together, so that neighbouring patches fit (the first as in Xiao et al., arXiv 2106.14881); 0 for none.
        long_skips: Whether late blocks see the tokens of early ones, as for `DiT`.
        clean: Whether the layers predict the clean content frame, as for `ContentUNet`; for `FlowMatching` only. Large
            patches learn from scratch with it (JiT, arXiv 2511.13720).
    """

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        patch_size: int = 2,
        mlp_ratio: float = 4.0,
        convolutional: int = 0,
        long_skips: bool = False,
        clean: bool = False,
    ) -> None:
        channels = latent_spec.content[0]
        outputs = (convolutional or channels) * patch_size**2
        super().__init__(condition_dim, outputs, width, depth, heads, mlp_ratio, long_skips=long_skips)
        self.patch_size = patch_size
        self.stem = nn.Conv2d(convolutional or channels, width, patch_size, stride=patch_size)
        if convolutional:
            self.enter = nn.Sequential(nn.Conv2d(channels, convolutional, 3, padding=1), nn.SiLU())
            self.leave = nn.Conv2d(convolutional, channels, 3, padding=1, bias=False)
        self.convolutional, self.clean = convolutional > 0, clean

    def forward(self, content: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        height, width = content.shape[2:]
        patch = self.patch_size
        padded = pad_to_multiple(content, patch, patch)
        tokens = self.stem(self.enter(padded) if self.convolutional else padded)  # (B, width, H / patch, W / patch)
        rows, columns = tokens.shape[2:]
        x = tokens.flatten(2).mT + self.positions(tokens, rows, columns)
        x = self.transform(x, timestep, condition)
        said = unpatchify(x, (patch, patch), rows)
        said = (self.leave(said) if self.convolutional else said)[:, :, :height, :width]
        return velocity_of(content, said, timestep) if self.clean else said
