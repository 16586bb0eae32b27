"""Small Stable Diffusion folders with random weights, as diffusers and transformers write them."""

import json

import torch

WORDS = ["a", "red", "blue", "circle", "square", "moves", "left", "right"]

UNETS = {
    "1.5": {"attention_head_dim": 2, "use_linear_projection": False, "cross_attention_dim": 16},
    "2.1": {"attention_head_dim": [2, 4], "use_linear_projection": True, "cross_attention_dim": 24},
}
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


def unet_of(kind):
    """The U-Net of a kind, small and random, but for sizes that do not concern its layers."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        **UNETS[kind],
    )


def vae_of(seed=2, **changes):
    """A VAE with 8 pixels to a latent point."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    settings = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "latent_channels": 4}
    return AutoencoderKL(**blocks, **settings | changes)


def text_of(kind, folder, seed=2):
    """A text encoder, and its tokenizer, whose vocabulary is a few words and the letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            parts = ["".join(pair), *parts[2:]]
            if parts[0] not in tokens:
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=UNETS[kind]["cross_attention_dim"],
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        hidden_act={"1.5": "quick_gelu", "2.1": "gelu"}[kind],
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    return CLIPTextModel(config), tokenizer


def write_stable_diffusion(folder, kind="1.5", seed=2, **scheduler):
    """Writes a whole model by `StableDiffusionPipeline.save_pretrained`; its folder. `seed` is that of VAE and text."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    text, tokenizer = text_of(kind, folder.with_name(folder.name + "-vocabulary"), seed)
    pipeline = StableDiffusionPipeline(
        vae=vae_of(seed),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet_of(kind),
        scheduler=PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def write_controlnet(folder, unet, seed=3, **changes):
    """Writes a ControlNet for a U-Net, with random weights where training begins with zeros; its folder."""
    from diffusers import ControlNetModel

    torch.manual_seed(seed)
    network = ControlNetModel.from_unet(unet, **changes)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    network.save_pretrained(folder)
    return folder


def write_ip_adapter(folder, unet, seed=4, channels=12):
    """Writes an IP-Adapter for a U-Net as those on the hub are: models/adapter.safetensors and its image encoder."""
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=channels,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "models" / "image_encoder")
    dim = unet.config.cross_attention_dim
    shapes = {"proj.weight": (4 * dim, channels), "proj.bias": (4 * dim,), "norm.weight": (dim,), "norm.bias": (dim,)}
    weights = {f"image_proj.{name}": torch.randn(shape) for name, shape in shapes.items()}
    own = dict(unet.named_modules())
    layers = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(layers):
        for part in ("to_k", "to_v"):
            shape = getattr(own[name], part).weight.shape
            weights[f"ip_adapter.{2 * number + 1}.{part}_ip.weight"] = torch.randn(shape)
    save_file(weights, folder / "models" / "adapter.safetensors")
    return folder
