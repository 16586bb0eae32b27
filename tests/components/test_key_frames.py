"""A content model of real frames works with any autoencoder; one of learned content frames only with its own."""

from functools import partial

import pytest

from cmd_lightning.components import ContentDiffusion, MotionDiffusion, VideoAutoencoder
from cmd_lightning.components.cmd import load_stages
from cmd_lightning.errors import InputError
from cmd_lightning.zoo.content.image_unet import ContentUNet
from cmd_lightning.zoo.motion.grid import GridUNet

CONTENT = partial(ContentUNet, width=8, multipliers=(1, 1), layers=1, heads=2)
MOTION = partial(GridUNet, width=8, multipliers=(1, 1), layers=1, heads=2)


@pytest.fixture
def stages(tmp_path, tiny_autoencoder, save_checkpoint):
    """Writes two autoencoders, content and motion models of the first, and gives their paths."""

    def make(**changes):
        paths = {}
        for name in ("first", "second"):
            stage = VideoAutoencoder(lambda: tiny_autoencoder(**changes))
            stage.video_shape, stage.fps = (3, 6, 8, 12), 8.0
            paths[name] = str(save_checkpoint(stage, tmp_path / f"{name}.ckpt"))
        for name, kind, network in (("content", ContentDiffusion, CONTENT), ("motion", MotionDiffusion, MOTION)):
            stage = kind(network, paths["first"])
            paths[name] = str(save_checkpoint(stage, tmp_path / f"{name}.ckpt"))
        return paths

    return make


def test_key_frames_fit_another_autoencoder(stages):
    paths = stages(weights="first")
    assert load_stages(paths["first"], paths["content"], paths["motion"])["content"].trained_on == "first frame"
    with pytest.raises(InputError, match=r"motion .*: it was trained on the latents of another autoencoder"):
        load_stages(paths["second"], paths["content"], paths["motion"])
    resumed = ContentDiffusion(CONTENT, paths["second"])
    checkpoint = {"state_dict": {}}
    ContentDiffusion(CONTENT, paths["first"]).on_save_checkpoint(checkpoint)
    resumed.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("changes", [{"weights": "patch"}, {"weights": "first", "residual": 0.1}])
def test_learned_content_frames_do_not(stages, changes):
    paths = stages(**changes)
    load_stages(paths["first"], paths["content"], paths["motion"])
    with pytest.raises(InputError, match=r"content .*: it was trained on the latents of another autoencoder"):
        load_stages(paths["second"], paths["content"], paths["motion"])


def test_another_key_frame_does_not_fit(stages, tmp_path, tiny_autoencoder, save_checkpoint):
    paths = stages(weights="first")
    other = VideoAutoencoder(lambda: tiny_autoencoder(weights="middle"))
    other.video_shape, other.fps = (3, 6, 8, 12), 8.0
    path = str(save_checkpoint(other, tmp_path / "middle.ckpt"))
    with pytest.raises(InputError, match=r"content .*: it was trained on the latents of another autoencoder"):
        load_stages(path, paths["content"], paths["motion"])
