import copy
import csv
import hashlib
import json
import pickle
import warnings

import matplotlib
import numpy as np
import open_clip
import pytest
import torch
from crafted import DISGUISES, crafted
from open_clip.model import CLIP
from open_clip.transform import image_transform
from PIL import Image
from torch import nn
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPConfig, CLIPModel

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity, normalised
from cmd_lightning.video_io import read_video

matplotlib.use("Agg")

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
}
CAPTIONS = ["a red circle moves left", "a blue square moves right"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's


def tiny(config=CONFIG):
    model = CLIP(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval(), open_clip.SimpleTokenizer(context_length=12)


def by_pillow(frame, resize, mean=MEAN, std=STD):
    """A frame `(3, h, w)` in [0, 1] as the tiny model takes it, plane by plane."""
    height, width = frame.shape[1:]
    short = min(height, width)
    size = (16, 16) if resize == "stretch" else (16 * width // short, 16 * height // short)
    planes = [np.asarray(Image.fromarray(c, "F").resize(size, Image.Resampling.BICUBIC)) for c in frame.numpy()]
    top, left = (round((side - 16) / 2) for side in planes[0].shape)
    planes = np.stack(planes).clip(0, 1)[:, top : top + 16, left : left + 16]
    return torch.tensor((planes - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1)), dtype=torch.float32)


def by_hand(model, tokenizer, video, captions, mean, std, resize):
    """One frame at a time, resized by Pillow, with the cosine spelt out."""
    values = []
    for clip, caption in zip(video, captions, strict=True):
        text = model.encode_text(tokenizer([caption]))[0].double().detach().numpy()
        cosines = []
        for frame in clip.transpose(0, 1):
            prepared = by_pillow(frame, resize, mean, std)
            image = model.encode_image(prepared[None])[0].double().detach().numpy()
            cosines.append(image @ text / np.sqrt(image @ image * (text @ text)))
        values.append(np.mean(cosines))
    return values


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("own_range", [False, True])
@pytest.mark.parametrize(("resize", "height"), [("crop", 24), ("crop", 57), ("stretch", 24)])
def test_similarity_is_the_mean_cosine_of_the_frames(own_range, resize, height):
    model, tokenizer = tiny()
    mean, std = MEAN, STD
    if own_range:
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
        model.visual.image_mean, model.visual.image_std = mean, std
    video = torch.rand(2, 3, 5, height, 40)
    video[1] = (video[1, :, :1] > 0.5).float() * (torch.arange(40) > 17)  # edges, beyond which the filter overshoots
    expected = by_hand(model, tokenizer, video, CAPTIONS, mean, std, resize)
    metric = CLIPSimilarity(model, tokenizer, resize=resize)
    np.testing.assert_allclose(metric.similarities(video, CAPTIONS), expected, atol=2e-5)
    metric.update(video[:1], CAPTIONS[:1])
    metric.update(video[1:], CAPTIONS[1:])
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=2e-5)
    metric.reset()
    metric.update((video[:1] * 255).round().byte(), CAPTIONS[:1])
    assert metric.compute().item() == pytest.approx(expected[0], abs=2e-3)


@pytest.mark.parametrize("size", [(24, 40), (45, 16), (33, 20), (16, 16), (16, 29), (9, 12), (64, 64)])
def test_frames_are_prepared_as_by_open_clip(size):
    """Whose own preparation rounds to 8 bits on the way, twice."""
    model, _ = tiny()
    frame = torch.randint(80, 176, (3, *size), dtype=torch.uint8)
    expected = image_transform(16, is_train=False, mean=MEAN, std=STD)(Image.fromarray(frame.permute(1, 2, 0).numpy()))
    ours = normalised(model.visual, frame[None] / 255)
    torch.testing.assert_close(ours[0], expected, atol=1.01 / 255 / min(STD), rtol=0)
    square = size[0] == size[1]
    assert torch.equal(ours, normalised(model.visual, frame[None] / 255, "stretch")) == square


def in_transformers_layout(model):
    """The same weights in the other library, every one of them."""
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 64}
    layers |= {"hidden_act": "gelu"}
    text = {"max_position_embeddings": 12, "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, **layers}
    vision = {"image_size": 16, "patch_size": 8, **layers}
    other = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    names = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1": "vision_model.embeddings.patch_embedding",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "visual.transformer.resblocks": "vision_model.encoder.layers",
        "visual.proj": "visual_projection.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding": "text_model.embeddings.token_embedding",
        "transformer.resblocks": "text_model.encoder.layers",
        "ln_final": "text_model.final_layer_norm",
        "text_projection": "text_projection.weight",
    }
    inside = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    weights = {}
    for name, value in model.state_dict().items():
        start = next((start for start in names if name.startswith(start)), None)
        name = name.replace(start, names[start]) if start else name
        for old, new in (inside | {"attn.out_proj": "self_attn.out_proj"}).items():
            name = name.replace(f".{old}.", f".{new}.")
        if "attn.in_proj_" in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                weights[name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = rows
        else:
            weights[name] = value.T if name.endswith("_projection.weight") else value
    other.load_state_dict(weights)
    return other


class TorchmetricsCLIP(nn.Module):
    """What torchmetrics asks of a model; since transformers 5 these methods give more than the vector."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels):
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output)

    def get_text_features(self, tokens, mask):
        return self.model.text_projection(self.model.text_model(tokens, mask).pooler_output)


def torchmetrics_score(model, tokenizer, clip, caption):
    def processor(images=None, text=None, **_):
        if text is None:
            return {"pixel_values": torch.stack([by_pillow(image, "crop") for image in images])}
        tokens = tokenizer(text)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    metric = CLIPScore(lambda: (TorchmetricsCLIP(in_transformers_layout(model)), processor))
    metric.update(list(clip.transpose(0, 1)), [caption] * clip.shape[1])
    return metric.compute().item()


@torch.no_grad()
def compare_with_torchmetrics(video, captions):
    """Once with all cosines negated, so that some are above 0 and some below."""
    model, tokenizer = tiny()
    both = []
    for _ in range(2):
        model.text_projection *= -1
        ours = CLIPSimilarity(model, tokenizer).similarities(video, captions)
        theirs = [torchmetrics_score(model, tokenizer, *pair) for pair in zip(video, captions, strict=True)]
        np.testing.assert_allclose(theirs, 100 * ours.clamp(min=0), atol=2e-3)
        both.append(ours)
    torch.testing.assert_close(both[0], -both[1])
    assert both[0].abs().max() > 0.01


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_torchmetrics_score_is_100_times_as_much_cut_at_0(size):
    compare_with_torchmetrics(torch.rand(2, 3, 3, *size), CAPTIONS)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated", "ignore:captions")
@pytest.mark.parametrize("width", [256, 200])
def test_torchmetrics_score_of_generated_clips(assets, width):
    with (assets / "videos/captions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["subset"] == "generated_t2v"][::4]
    video = torch.stack([read_video(assets / "videos" / row["path"])[:, ::4] for row in rows])
    assert video.shape == (3, 3, 4, 256, 256)
    compare_with_torchmetrics(video[..., :width] / 255, [row["caption"] for row in rows])


class Brightness(nn.Module):
    """Looks along +1 for bright frames, along -1 for dark ones; every caption is +1."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Identity()
        self.visual.image_size, self.visual.image_mean, self.visual.image_std = 4, [0.5] * 3, [0.5] * 3
        self.dropout = nn.Dropout(0.9)

    def encode_image(self, images):
        return self.dropout(images.mean((1, 2, 3))[:, None] * 3)

    def encode_text(self, tokens):
        return torch.ones(len(tokens), 1)


def test_videos_count_equally_whatever_their_length_and_cosines_keep_their_sign():
    metric = CLIPSimilarity(Brightness(), lambda captions: torch.zeros(len(captions), 1))
    nn.ModuleList([metric]).train()  # as a part of a module that trains
    bright, dark = torch.ones(1, 3, 2, 4, 4), torch.zeros(1, 3, 10, 4, 4)
    metric.update(bright, ["x"])
    assert metric.compute() == 1
    metric.update(dark, ["x"])
    assert metric.compute() == 0
    metric.update(dark, ["x"])
    assert metric.compute().item() == pytest.approx(-1 / 3)


def test_wrong_input_is_rejected():
    model, tokenizer = tiny()
    metric = CLIPSimilarity(model, tokenizer)
    with pytest.raises(InputError, match="one for each of 2"):
        metric.update(torch.rand(2, 3, 2, 16, 16), CAPTIONS[:1])
    with pytest.raises(InputError, match="captions"):
        metric.update(torch.rand(3, 3, 2, 16, 16), "cat")
    with pytest.raises(InputError, match="captions None"):
        metric.update(torch.rand(2, 3, 2, 16, 16), None)
    for empty in ("", " \n", None):
        with pytest.raises(InputError, match=r"^captions: number 2 of 2 is .*; give each video a caption$"):
            metric.update(torch.rand(2, 3, 2, 16, 16), ["cat", empty])
    with pytest.raises(InputError, match="0, 1"):
        metric.update(torch.rand(2, 3, 2, 16, 16) - 1, CAPTIONS)
    with pytest.raises(InputError, match="drop alpha"):
        metric.update(torch.rand(2, 4, 2, 16, 16), CAPTIONS)
    with pytest.raises(InputError, match="resize squeeze: give crop or stretch"):
        CLIPSimilarity(model, tokenizer, resize="squeeze")
    with pytest.raises(RuntimeError, match="no video"):
        metric.compute()
    with pytest.raises(InputError, match="tokenizer"):
        CLIPSimilarity(model)
    with pytest.raises(InputError, match="list_models"):
        CLIPSimilarity("ViT-nothing")


def test_it_is_a_metric():
    model, tokenizer = tiny()
    metric = CLIPSimilarity(model, tokenizer)
    video = torch.rand(2, 3, 2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):  # a trainer's choice, not the metric's
        first = metric(video, CAPTIONS)
    assert first == metric.similarities(video, CAPTIONS).mean()
    assert (metric.total.dtype, metric.count.dtype) == (torch.float64, torch.long)
    assert pickle.loads(pickle.dumps(metric)).compute() == first
    assert metric.plot()[1].lines[0].get_ydata()[0] == pytest.approx(first.item())
    matplotlib.pyplot.close("all")
    low = metric.similarities(video.half(), CAPTIONS)
    torch.testing.assert_close(low, metric.similarities(video.half().float(), CAPTIONS))
    torch.testing.assert_close(metric.similarities(video.double(), CAPTIONS), metric.similarities(video, CAPTIONS))
    assert (metric.name, metric.origin) == ("CLIP", {"model": "CLIP", "pretrained": None, "resize": "crop"})


def test_value_within_a_module_that_is_cast():
    video = torch.rand(3, 3, 16, 24, 20)
    values = []
    original = CLIPSimilarity(*tiny())
    for cast in (False, True):
        metric = copy.deepcopy(original)
        module = nn.Sequential(metric, nn.Linear(1, 1)).train()
        module = module.to(torch.bfloat16) if cast else module
        for clip in video:
            metric.update(clip[None], CAPTIONS[:1])
            module = module.to(torch.bfloat16) if cast else module
        assert metric.total.dtype == torch.float64 and not metric.model.training
        values.append(metric.compute())
    assert values[0] == values[1]
    assert (module[1].weight.dtype, values[0].dtype) == (torch.bfloat16, torch.float64)


def test_long_captions_are_reported_once():
    model, tokenizer = tiny()
    metric = CLIPSimilarity(model, tokenizer)
    video = torch.rand(3, 3, 1, 16, 16)
    fits, long = "a b c d e f g h i j", "a b c d e f g h i j k"  # ten tokens fit between start and end
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(video, [fits] * 3)
    with pytest.warns(UserWarning, match="captions: 2 of 3 are cut, the model reads 12 tokens at most"):
        metric.update(video, [long, fits, long])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(video, [long] * 3)
    assert metric.similarities(video[:1], [long + " z"]) == metric.similarities(video[:1], [long])


@pytest.fixture
def tiny_names(tmp_path, monkeypatch):
    """The tiny model by two names of open_clip."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    (folder / "tiny-quickgelu.json").write_text(json.dumps(CONFIG | {"quick_gelu": True}))
    open_clip.add_model_config(folder)


def test_weights_of_a_file(tmp_path, tiny_names):
    quick, tokenizer = tiny(CONFIG | {"quick_gelu": True})
    plain = tmp_path / "mine.pt"
    torch.save(quick.state_dict(), plain)
    video = torch.rand(2, 3, 2, 16, 16)
    expected = CLIPSimilarity(quick, tokenizer).similarities(video, CAPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric = CLIPSimilarity("tiny-quickgelu", pretrained=plain)
        assert "warning" not in CLIPSimilarity("tiny", pretrained=str(plain)).origin
    torch.testing.assert_close(metric.similarities(video, CAPTIONS), expected)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    assert metric.name == "tiny-quickgelu/mine.pt"
    assert metric.origin == {"model": "tiny-quickgelu", "pretrained": "mine.pt", "sha256": digest, "resize": "crop"}
    named = plain.rename(tmp_path / "ViT-OpenAI.pt")
    with pytest.warns(UserWarning, match="need tiny-quickgelu"):
        assert "need tiny-quickgelu" in CLIPSimilarity("tiny", pretrained=named).origin["warning"]


def save_as_openai(weights, path):
    """A TorchScript archive of weights in half precision, with three more entries that OpenAI's have."""
    root = nn.Module()
    for name, value in weights.items():
        *folders, leaf = name.split(".")
        module = root
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, nn.Module())
            module = module.get_submodule(folder)
        module.register_buffer(leaf, value.half())
    for name, value in {"input_resolution": 16, "context_length": 12, "vocab_size": 49408}.items():
        root.register_buffer(name, torch.tensor(value))
    torch.jit.save(torch.jit.script(root), path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_openai_archives_need_quickgelu(tmp_path, tiny_names):
    quick, tokenizer = tiny(CONFIG | {"quick_gelu": True})
    archive = tmp_path / "archive.pt"
    save_as_openai(quick.state_dict(), archive)
    with pytest.raises(InputError, match=r"model tiny: .*use tiny-quickgelu"):
        CLIPSimilarity("tiny", pretrained=archive, trust_torchscript=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("opened"))
        with pytest.raises(InputError, match=r"`trust_torchscript`, as in CLIPSimilarity\(\.\.\., trust_torchscript="):
            CLIPSimilarity("tiny-quickgelu", pretrained=archive)
    video = torch.rand(2, 3, 2, 16, 16)
    expected = CLIPSimilarity(quick.half().float(), tokenizer).similarities(video, CAPTIONS)
    metric = CLIPSimilarity("tiny-quickgelu", pretrained=archive, trust_torchscript=True)
    torch.testing.assert_close(metric.similarities(video, CAPTIONS), expected)
    assert metric.name == "tiny-quickgelu/archive.pt" and metric.model.logit_scale.dtype == torch.float32


@pytest.mark.parametrize("disguise", DISGUISES)
def test_no_file_runs_code(disguise, tmp_path, tiny_names, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = crafted(tmp_path, disguise)
    with warnings.catch_warnings(action="ignore"):
        for trust in (False, True):
            with pytest.raises(InputError) as caught:
                CLIPSimilarity("tiny-quickgelu", pretrained=path, trust_torchscript=trust)
            untrusted = disguise == "code" and not trust
            message = "trust_torchscript=True" if untrusted else "no weights of tiny-quickgelu ("
            assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()
    torch.load(crafted(tmp_path, "plain"), weights_only=False)
    assert (tmp_path / "trapped").exists(), "as it would have been"


def test_weights_that_cannot_be_had(tmp_path, tiny_names, monkeypatch):
    def problem(*names):
        with pytest.raises(InputError) as caught:
            CLIPSimilarity(names[0], pretrained=names[1])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "not in the local cache and cannot be downloaded" in problem("ViT-B-32-quickgelu", "openai")
    assert "use ViT-B-32-quickgelu" in problem("ViT-B-32", "openai")
    assert "one of: openai, " in problem("ViT-B-32-quickgelu", "none.pt")
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, other)
    assert "no weights of tiny " in problem("tiny", other)
    for content in ([1], {}, None):
        torch.save(content, other)
        assert "no weights of tiny " in problem("tiny", other)
    for content in (b"nothing", b""):
        other.write_bytes(content)
        assert "no weights of tiny " in problem("tiny", other)
