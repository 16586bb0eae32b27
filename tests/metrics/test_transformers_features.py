import json
from logging import Handler

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
    VJEPA2VideoProcessor,
)
from transformers.utils import logging

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.kernel import KernelVideoDistance, kernel_distance
from cmd_lightning.metrics.precision import Frozen
from cmd_lightning.metrics.transformers_features import TransformersFeatures

HEADS = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
MAE = {"image_size": 32, "num_frames": 4, "intermediate_size": 32, "decoder_hidden_size": 8, **HEADS}
MAE |= {"decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}
JEPA = {"crop_size": 32, "frames_per_clip": 4, "num_pooler_layers": 1, **HEADS}
JEPA |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}


def make(kind, wake):
    """A random model of a published kind, every weight awake, and its encoder's features of prepared clips."""
    if kind == "videomae":
        model = wake(VideoMAEForPreTraining(VideoMAEConfig(use_mean_pooling=False, **MAE)))
        return model, lambda clips: model.videomae(clips).last_hidden_state.mean(1)
    if kind == "videomae-finetuned":
        model = wake(VideoMAEForVideoClassification(VideoMAEConfig(use_mean_pooling=True, **MAE)))
        return model, lambda clips: model.fc_norm(model.videomae(clips).last_hidden_state.mean(1))
    if kind == "vjepa2":
        model = wake(VJEPA2Model(VJEPA2Config(**JEPA)))
        return model, lambda clips: model.encoder(clips).last_hidden_state.mean(1)
    model = wake(VJEPA2ForVideoClassification(VJEPA2Config(**JEPA)))
    return model, lambda clips: model.vjepa2.encoder(clips).last_hidden_state.mean(1)


KINDS = ("videomae", "videomae-finetuned", "vjepa2", "vjepa2-finetuned")


def as_published(folder):
    """VideoMAE's weights online have the names of transformers 4, which spelt two biases otherwise."""
    weights = load_file(folder / "model.safetensors")
    weights = {name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): x for name, x in weights.items()}
    assert any("attention.q_bias" in name for name in weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_those_of_the_model_by_hand(kind, tmp_path, wake):
    model, features = make(kind, wake)
    model.save_pretrained(tmp_path / "tiny")
    if "videomae" in kind:
        as_published(tmp_path / "tiny")
    video = torch.rand(2, 3, 4, 32, 32)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # without a processor: ImageNet's
    network = TransformersFeatures(str(tmp_path / "tiny"))
    prepared = torch.stack([(video[:, c] - mean[c]) / std[c] for c in range(3)], 2)
    torch.testing.assert_close(network(video), features(prepared), rtol=1e-4, atol=1e-5)
    assert network(video).shape == (2, network.num_features) == (2, 24)
    assert (network.name, network.published) == ("tiny", False)
    assert json.loads(json.dumps(network.origin))["preparation"]["normalisation"] == "ImageNet"
    backwards = network(video.flip(2))
    assert (backwards - network(video)).norm() > 0.01 * network(video).norm()


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
@torch.no_grad()
def test_preparation_is_the_checkpoints_own(kind, tmp_path, wake):
    """Against its processor, which takes uint8: so both see the same rounded frames only at one size."""
    model, features = make(kind, wake)
    model.save_pretrained(tmp_path)
    video = torch.randint(0, 256, (2, 3, 4, 32, 50), dtype=torch.uint8)
    if kind == "videomae":
        processor = VideoMAEImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6]
        )
        clips = processor([list(clip.transpose(0, 1).numpy()) for clip in video], return_tensors="pt")["pixel_values"]
        name = "preprocessor_config.json"
    else:
        processor = VJEPA2VideoProcessor(crop_size=32, image_mean=[0.4, 0.5, 0.6])
        processor.size = {"shortest_edge": 32}  # its own 36 would cut more off
        clips = processor(list(video.transpose(1, 2)), return_tensors="pt")["pixel_values_videos"]
        name = "video_preprocessor_config.json"
    processor.save_pretrained(tmp_path)
    network = TransformersFeatures(str(tmp_path))
    assert network.origin["preparation"]["normalisation"] == name
    assert clips.shape == (2, 4, 3, 32, 32)
    torch.testing.assert_close(network(video.float() / 255), features(clips), rtol=1e-4, atol=1e-4)
    (tmp_path / name).write_text(json.dumps({"do_normalize": False}))
    plain = video[..., 9:41].transpose(1, 2).float() / 255
    torch.testing.assert_close(TransformersFeatures(str(tmp_path))(video / 255), features(plain), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_clips_are_resized_with_antialiasing(tmp_path, wake):
    model, features = make("videomae", wake)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    video = torch.rand(1, 3, 4, 120, 90)
    small = np.empty((1, 4, 3, 32, 32), np.float32)
    for t in range(4):
        for c in range(3):
            plane = Image.fromarray(video[0, c, t].numpy()).resize((32, 42), Image.Resampling.BILINEAR)
            small[0, t, c] = np.asarray(plane)[5:37]
    expected = features(torch.from_numpy(small) * 2 - 1)
    torch.testing.assert_close(TransformersFeatures(str(tmp_path))(video), expected, rtol=1e-3, atol=1e-3)


def test_origin_tells_the_weights(tmp_path, wake):
    make("vjepa2", wake)[0].save_pretrained(tmp_path)
    first, again = TransformersFeatures(str(tmp_path)).origin, TransformersFeatures(str(tmp_path)).origin
    assert first == again
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layernorm.bias"][0] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    other = TransformersFeatures(str(tmp_path)).origin
    assert first.pop("sha256") != other.pop("sha256")
    assert first == other


def test_weights_of_heads_are_left_out_without_a_word(tmp_path, wake):
    make("vjepa2-finetuned", wake)[0].save_pretrained(tmp_path)
    handler, message, before = Handler(), [], logging.get_verbosity()
    handler.emit = message.append
    logging.add_handler(handler)
    logging.set_verbosity_warning()
    try:
        TransformersFeatures(str(tmp_path))
        assert not message
        VJEPA2Model.from_pretrained(tmp_path)  # where transformers itself speaks up
        assert message
    finally:
        logging.remove_handler(handler)
        logging.set_verbosity(before)


def test_wrong_numbers_of_frames_are_rejected(tmp_path, wake):
    make("videomae", wake)[0].save_pretrained(tmp_path / "mae")
    make("vjepa2", wake)[0].save_pretrained(tmp_path / "jepa")
    mae, jepa = (TransformersFeatures(str(tmp_path / name)) for name in ("mae", "jepa"))
    with pytest.raises(InputError, match="video of 6 frames: mae takes exactly 4"):
        mae(torch.rand(1, 3, 6, 32, 32))
    assert jepa(torch.rand(1, 3, 6, 32, 32)).shape == (1, 24)
    with pytest.raises(InputError, match="video of 5 frames: jepa takes multiples of 2"):
        jepa(torch.rand(1, 3, 5, 32, 32))
    with pytest.raises(InputError, match="1 channels"):
        jepa(torch.rand(1, 1, 4, 32, 32))


def test_other_folders_than_checkpoints_are_rejected(tmp_path, wake):
    def problem(checkpoint):
        with pytest.raises(InputError) as caught:
            TransformersFeatures(str(checkpoint))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "check the id" in problem("nobody/nothing")
    assert "check the id" in problem(tmp_path / "none")
    assert "cannot be opened" in problem(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    assert "type bert" in problem(tmp_path)
    make("videomae", wake)[0].save_pretrained(tmp_path / "partial")
    weights = load_file(tmp_path / "partial/model.safetensors")
    del weights["videomae.encoder.layer.1.output.dense.bias"]
    save_file(weights, tmp_path / "partial/model.safetensors", {"format": "pt"})
    assert "no weights for 1 parameters" in problem(tmp_path / "partial")


def test_kernel_distance_over_it(tmp_path, wake):
    make("videomae", wake)[0].save_pretrained(tmp_path)
    network = Frozen(TransformersFeatures(str(tmp_path)))
    real, fake = torch.rand(5, 3, 4, 32, 32), torch.rand(4, 3, 4, 32, 32) ** 2
    metric = KernelVideoDistance(network)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with torch.autocast("cpu", torch.bfloat16):  # a trainer's choice, not the network's
        features = network(real), network(fake)
    torch.testing.assert_close(metric.compute(), kernel_distance(*features), rtol=1e-4, atol=1e-6)
