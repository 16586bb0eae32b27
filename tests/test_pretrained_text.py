import json

import open_clip
import pytest
import torch
from stable_diffusion_folders import write_stable_diffusion
from transformers import CLIPTextModel, CLIPTokenizer

from cmd_lightning.errors import InputError
from cmd_lightning.networks.classes import build, describe
from cmd_lightning.pretrained_text import FrozenOpenCLIP, StableDiffusionText, open_text_encoder

CAPTIONS = ["a red circle moves left", "", "a blue square"]
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory):
    """open_clip knows two small models more, one with OpenAI's activation."""
    folder = tmp_path_factory.mktemp("configs")
    for name, changes in (("small", {}), ("small-quickgelu", {"quick_gelu": True}), ("hugging", {})):
        config = CONFIG | changes
        if name == "hugging":
            config = config | {"text_cfg": config["text_cfg"] | {"hf_tokenizer_name": "some/one"}}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(5)
    model = open_clip.create_model("small")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(model.state_dict(), path)
    return path


def hidden_states(model, captions):
    """The last hidden states of a whole open_clip model after its norm, by its own method."""
    tokens = open_clip.SimpleTokenizer(context_length=12)(captions)
    out = model.eval().forward_intermediates(text=tokens, text_indices=1, normalize_intermediates=True)
    return tokens, out["text_intermediates"][0]


@pytest.mark.parametrize("name", ["small", "small-quickgelu"])
@torch.no_grad()
def test_open_clips_hidden_states_and_their_mean(weights, name):
    encoder = FrozenOpenCLIP(name, str(weights))
    condition = encoder(CAPTIONS)
    model = open_clip.create_model(name, pretrained=str(weights))
    tokens, hidden = hidden_states(model, CAPTIONS)
    torch.testing.assert_close(condition.tokens, hidden)
    for row, words, pooled in zip(hidden, tokens, condition.pooled, strict=True):
        length = int(words.argmax()) + 1  # the end token is the last of the caption's own
        torch.testing.assert_close(pooled, row[:length].mean(0))
    assert encoder.dim == 16
    null = encoder.null(2)
    torch.testing.assert_close(null.tokens[1], hidden[1])
    torch.testing.assert_close(encoder.null(3).pooled[2], condition.pooled[1])


def test_the_activation_is_a_difference(weights):
    plain, quick = (FrozenOpenCLIP(name, str(weights))(CAPTIONS).pooled for name in ("small", "small-quickgelu"))
    assert (plain - quick).abs().max() > 1e-4


@torch.no_grad()
def test_stable_diffusions_hidden_states(tmp_path):
    base = write_stable_diffusion(tmp_path / "sd", "2.1")
    encoder = StableDiffusionText(str(base), 24)
    condition = encoder(CAPTIONS)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    model = CLIPTextModel.from_pretrained(base / "text_encoder")
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=12, truncation=True, return_tensors="pt").input_ids
    torch.testing.assert_close(condition.tokens, model(ids).last_hidden_state)
    assert condition.mask.all() and condition.mask.shape == (3, 12)
    torch.testing.assert_close(encoder.null(2).tokens[1], condition.tokens[1])
    long = encoder(["a red circle " * 20]).tokens
    assert long.shape == (1, 12, 24)
    same = StableDiffusionText.of(model, tokenizer)
    torch.testing.assert_close(same(CAPTIONS).tokens, condition.tokens)
    assert (same.dim, same.fingerprint) == (24, encoder.fingerprint)


def test_nothing_is_trained_and_weights_are_read_once(weights, monkeypatch):
    encoder = FrozenOpenCLIP("small", str(weights))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    encoder.open()
    from cmd_lightning.metrics import clip_similarity

    monkeypatch.setattr(clip_similarity, "open_clip_model", None)
    encoder.open()
    assert not encoder(CAPTIONS).tokens.requires_grad


def test_a_description_leads_to_the_same_weights(weights, tmp_path):
    encoder = FrozenOpenCLIP("small", str(weights))
    again = build(describe(encoder))
    assert again.fingerprint == encoder.fingerprint
    # The same weights in another model say something else.
    assert FrozenOpenCLIP("small-quickgelu", str(weights)).fingerprint != encoder.fingerprint
    base = write_stable_diffusion(tmp_path / "sd")
    text = StableDiffusionText(str(base), 16)
    assert build(describe(text)).fingerprint == text.fingerprint == open_text_encoder(str(base)).fingerprint
    assert open_text_encoder(f"small:{weights}").fingerprint == encoder.fingerprint


def test_a_pipelines_folder_holds_the_weights(weights, tmp_path):
    encoder = FrozenOpenCLIP("small", str(weights))
    encoder.open()
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"weights": "gone"}))
    again = FrozenOpenCLIP.from_pretrained(tmp_path)
    torch.testing.assert_close(again(CAPTIONS).pooled, encoder(CAPTIONS).pooled)


def test_what_cannot_be_had_is_reported(weights, tmp_path):
    base = write_stable_diffusion(tmp_path / "sd", "2.1")
    for make, message in (
        (lambda: FrozenOpenCLIP("smal", str(weights)), "open_clip has no such model"),
        (lambda: FrozenOpenCLIP("hugging", str(weights)), "one of Hugging Face's"),
        (lambda: FrozenOpenCLIP("small", "laion").open(), "no file, nor a tag of small"),
        (
            lambda: open_text_encoder("ViT-B-32:openai"),
            "^text ViT-B-32:openai: .* were trained with QuickGELU; use ViT-B-32-quickgelu",
        ),
        (lambda: open_text_encoder("ViT-H-14:laion2b_s32b_b79k"), "not in the local cache and cannot be downloaded"),
        (
            lambda: open_text_encoder("some/where"),
            "^text some/where: it is not a folder, and cannot be loaded from the hub",
        ),
        (
            lambda: StableDiffusionText(str(base), 16).open(),
            "has 24 channels, where the U-Net.* for 16; .*2.1 has 1024",
        ),
    ):
        with pytest.raises(InputError, match=message) as error:
            make()
        assert "\n" not in str(error.value)
