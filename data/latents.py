"""LatentDataModule: shards of latents, as `shards encode` makes them, in place of video."""

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.latent_clips import LatentLoader
from cmd_lightning.data.shard_module import ShardDataModule


class LatentDataModule(ShardDataModule):
    """Latents from shards that `shards encode` made: no video is read, and nothing is encoded.

    The promises are those of `WebVidDataModule`: every good sample once an epoch, equal batches on all ranks, and a
    fit resumed from a checkpoint goes on at the next batch. Epoch e shows clip `e % K` of the K that there are of
    each video. Frames, size, rate and crop are those with which the shards were made.

    A batch is a dictionary: "moments" (B, M, T, h, w), or "content" (B, C, h, w) and "motion" (B, D, T, S), as they
    are stored; "text" with "pooled", "tokens", "mask" of captions by the fingerprint of the encoder; "made_by" a list;
    "caption", "label", "key", "fps", "epoch" as of `WebVidDataModule`.

    Args:
        train_shards: .tar files for training: paths, globs, folders, brace ranges or http(s) addresses.
        val_shards: the same for validation.
        test_shards: the same for testing and prediction.
        batch_size: clips in a batch, per device.
        num_workers: loader processes, per device.
        seed: of the order of the samples.
        shuffle_buffer: unread samples, per worker, among which the next one is drawn in training.
        max_bad_share: the largest share of bad samples to go on with, from 0 to 1. They are replaced and counted; more
            of them, or of those that the index knows, end the run with a list.
        remote: how shards at addresses are fetched and kept.
    """

    def __init__(
        self,
        train_shards: str | list[str] | None = None,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        shuffle_buffer: int = 100,
        max_bad_share: float = 0.1,
        remote: ShardCache | None = None,
    ) -> None:
        super().__init__(
            train_shards,
            val_shards,
            test_shards,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            shuffle_buffer=shuffle_buffer,
            max_bad_share=max_bad_share,
            remote=remote,
        )

    def clip_loader(self, *, training: bool) -> LatentLoader:
        """Reads latents, the same in training and evaluation."""
        return LatentLoader()
