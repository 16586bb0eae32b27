"""LatentDataModule: shards of latents, as `shards encode` makes them, in place of video."""

from cmd_lightning.data.clips import SampleLoader
from cmd_lightning.data.latent_clips import load_latents
from cmd_lightning.data.shard_module import ShardDataModule


class LatentDataModule(ShardDataModule):
    """Latents from shards that `shards encode` made: no video is read, and nothing is encoded.

    Epoch e shows clip `e % K` of the K that there are of each video. Frames, size, rate and crop are those with which
    the shards were made.

    A batch is a dictionary: "moments" (B, M, T, h, w), or "content" (B, C, h, w) and "motion" (B, D, T, S), as they
    are stored; "text" with "pooled", "tokens", "mask" of captions by the fingerprint of the encoder; "made_by" a list;
    "caption", "label", "key", "fps", "epoch" as of `WebVidDataModule`.
    """

    def clip_loader(self, *, training: bool) -> SampleLoader:
        return load_latents
