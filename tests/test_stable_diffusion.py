"""The paper's text-to-video set-up on a small Stable Diffusion folder: fit, test, export, generate."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from paper_fits import SIZE, STAGES, data, options
from safetensors.torch import load_file, save_file
from stable_diffusion_folders import SCHEDULE, UNETS, vae_of, write_stable_diffusion

from cmd_lightning.cli import main
from cmd_lightning.components.checkpoints import load_stage
from cmd_lightning.latent_space import FrameLatents
from cmd_lightning.pipeline import CMDPipeline


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("clips")
    assert main(["shards", "synth", "--out", str(out), "--num", "4", "--size", "64"]) == 0
    return out / "train"


@pytest.fixture(scope="module", params=["1.5", pytest.param("2.1", marks=pytest.mark.slow)])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def base(kind, tmp_path_factory):
    return write_stable_diffusion(tmp_path_factory.mktemp("base") / "sd", kind)


@pytest.fixture(scope="module")
def trained(base, kind, shards, tmp_path_factory):
    """The folder of three fits."""
    folder = tmp_path_factory.mktemp("trained")
    for stage in STAGES:
        assert main(["fit", *options(stage, base, shards, folder, kind)]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(trained):
    checkpoints = [str(trained / stage / "last.ckpt") for stage in STAGES]
    assert main(["export", *checkpoints, str(trained / "model"), "--steps", "2"]) == 0
    return trained / "model"


def test_checkpoints_leave_out_what_is_frozen(trained, base):
    for stage in STAGES:
        checkpoint = torch.load(trained / stage / "last.ckpt", weights_only=True)
        names = {name.partition(".")[0] for name in (*checkpoint["state_dict"], *checkpoint["ema"])}
        assert names == {"network"} | ({"condition_encoder"} if stage == "motion" else set())
    own = load_file(base / "unet/diffusion_pytorch_model.safetensors")
    tuned = torch.load(trained / "content/last.ckpt", weights_only=True)["state_dict"]
    moved = max((tuned[f"network.{name}"] - weight).abs().max().item() for name, weight in own.items())
    assert 0 < moved < 1e-3  # two steps of 1e-4 from the base's weights, and not from random ones


def test_plain_stable_diffusion_opens_the_export(exported, trained, base):
    pipeline = StableDiffusionPipeline.from_pretrained(exported, safety_checker=None)
    checkpoint = torch.load(trained / "content/last.ckpt", weights_only=True)
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(weight, checkpoint["ema"].get(f"network.{name}", weight))
        assert f"network.{name}" in checkpoint["ema"]
    ours = CMDPipeline.from_pretrained(exported).unet.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in pipeline.unet.state_dict().items())
    for part in ("vae", "text_encoder"):  # as they were
        before = load_file(next((base / part).glob("*.safetensors")))
        after = getattr(pipeline, part).state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in before.items())
    for name, value in SCHEDULE.items():
        assert pipeline.scheduler.config[name] == value
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red circle moves left", height=32, width=48, num_inference_steps=2, output_type="np").images
    assert image.shape == (1, *SIZE, 3)


def test_generate_test_and_reconstruct_on_the_export(exported, shards, tmp_path, kind):
    argv = ["generate", str(exported), "--prompt", "a red circle moves left", "--num", "2", "--out", str(tmp_path)]
    assert main(argv) == 0
    from cmd_lightning.video_io import read_video

    videos = sorted(tmp_path.glob("*.mp4"))
    assert [tuple(read_video(video, range(5)).shape) for video in videos] == [(3, 5, *SIZE)] * 2
    config = {"1.5": "webvid_sd15", "2.1": "webvid_sd21"}[kind]
    root = f"--trainer.default_root_dir={tmp_path}"
    arguments = ["-c", f"configs/{config}/cmd.yaml", f"--model.model={exported}", *data(shards), root]
    nothing = [f"--model.{stage}=null" for stage in STAGES]
    assert main(["test", *arguments, *nothing, "--trainer.precision=32-true", "--model.steps=2"]) == 0
    scores = {record["metric"]: record["value"] for record in json.loads((tmp_path / "test.json").read_text())}
    assert 3 < scores["psnr"] < 60
    assert main(["reconstruct", str(exported), str(videos[0]), "--out", str(tmp_path / "again")]) == 0


def test_content_frames_are_those_of_stable_diffusion_itself(exported):
    """Our sampler over the parts of the folder against diffusers' own pipeline with the same scheduler and noise."""
    ours, theirs = CMDPipeline.from_pretrained(exported), StableDiffusionPipeline.from_pretrained(exported)
    for pipeline in (ours, theirs):
        pipeline.set_progress_bar_config(disable=True)
    prompts = ["a red circle moves left", "a blue square"]
    from cmd_lightning.diffusion.sampling import generators_of, seeded_noise

    noise = seeded_noise((4, 4, 6), generators_of([3, 4], stream=0))
    settings = {"num_inference_steps": 3, "guidance_scale": 5.0, "eta": 0.0, "output_type": "latent"}
    expected = theirs(prompts, latents=noise, height=32, width=48, **settings).images
    found = ours.generate_content(prompts, [3, 4], steps=3, guidance=5.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_half_an_export_computes_in_float32(exported, trained, tmp_path):
    checkpoints = [str(trained / stage / "last.ckpt") for stage in STAGES]
    assert main(["export", *checkpoints, str(tmp_path / "half"), "--half", "--steps", "2"]) == 0
    whole, half = (CMDPipeline.from_pretrained(folder) for folder in (exported, tmp_path / "half"))
    frames = []
    for pipeline in (whole, half):
        pipeline.set_progress_bar_config(disable=True)
        frames.append(pipeline("a red circle", seeds=[0], output_type="np").frames)
    assert abs(frames[0] - frames[1]).max() < 0.05
    weights = CMDPipeline.from_pretrained(tmp_path / "half", torch_dtype=torch.float16).text_encoder.parameters()
    assert {weight.dtype for weight in weights} == {torch.float16}


def test_half_precision_leaves_what_is_frozen_recognisable(base, shards, trained, tmp_path, kind):
    """Under bf16-true the frozen parts are cast too; they are still those of the folder."""
    argv = ["fit", *options("content", base, shards, trained, kind), f"--trainer.default_root_dir={tmp_path}"]
    folder = tmp_path / "content"
    callbacks = f'[{{"class_path": "LastCheckpoint", "init_args": {{"folder": "{folder}"}}}}]'
    assert main([*argv, "--trainer.precision=bf16-true", f"--trainer.callbacks={callbacks}"]) == 0
    checkpoints = [str(trained / "autoencoder/last.ckpt"), str(folder / "last.ckpt"), str(trained / "motion/last.ckpt")]
    assert main(["export", *checkpoints, str(tmp_path / "model")]) == 0


def test_a_lora_in_the_public_layout_loads_and_unloads(exported, tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    other = UNet2DConditionModel.from_pretrained(exported / "unet")
    other.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(other))
    pipeline = CMDPipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    plain = pipeline.generate_content(["a red circle"], [0], steps=2)
    pipeline.load_lora_weights(tmp_path)
    changed = pipeline.generate_content(["a red circle"], [0], steps=2)
    assert (changed - plain).abs().max() > 1e-3
    pipeline.unload_lora_weights()
    after = pipeline.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    again = pipeline.generate_content(["a red circle"], [0], steps=2)
    torch.testing.assert_close(again, plain, atol=1e-3, rtol=0)  # the last bit depends on memory addresses


def test_generate_takes_a_lora(exported, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(exported / "unet")
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=get_peft_model_state_dict(unet))
    argv = ["generate", str(exported), "--prompt", "a red circle", "--out"]
    assert main([*argv, str(tmp_path / "plain")]) == 0
    for path in ("lora", "lora/pytorch_lora_weights.safetensors"):
        assert main([*argv, str(tmp_path / path[:9]), "--lora", str(tmp_path / path)]) == 0
        record = json.loads(next((tmp_path / path[:9]).glob("*.json")).read_text())
        assert "pytorch_lora_weights.safetensors" in record["weights"]
        videos = [next((tmp_path / folder).glob("*.mp4")).read_bytes() for folder in ("plain", path[:9])]
        assert videos[0] != videos[1]

    (tmp_path / "broken.safetensors").write_bytes(b"no such thing")
    save_file({"unet.nothing.lora_A.weight": torch.zeros(4, 16)}, tmp_path / "other.safetensors")
    for name, message in (
        ("gone", "gone: there is no such file"),
        ("broken.safetensors", "cannot be used"),
        ("other.safetensors", "--lora"),
    ):
        assert message in error_of(capsys, [*argv, str(tmp_path / "no"), "--lora", str(tmp_path / name)])


@pytest.mark.slow
def test_adapters_train_alone_and_are_folded_in(base, kind, shards, trained, tmp_path, capsys):
    """LoRA by the content config: checkpoint, resuming, and export."""
    (tmp_path / "autoencoder").mkdir()
    shutil.copy(trained / "autoencoder/last.ckpt", tmp_path / "autoencoder")
    argv = ["fit", *options("content", base, shards, tmp_path, kind), "--model.lora.rank=2", "--model.lora.alpha=6"]
    assert main([*argv, "--ckpt_path=last"]) == 0
    first = torch.load(tmp_path / "content/last.ckpt", weights_only=True)
    assert first["state_dict"].keys() == first["ema"].keys()
    assert all("lora_" in name for name in first["state_dict"])
    assert main([*argv, "--ckpt_path=last", "--trainer.max_steps=4"]) == 0
    last = torch.load(tmp_path / "content/last.ckpt", weights_only=True)
    assert last["global_step"] == 4

    checkpoints = [str(trained / "autoencoder/last.ckpt"), str(tmp_path / "content/last.ckpt")]
    assert main(["export", *checkpoints, str(trained / "motion/last.ckpt"), str(tmp_path / "model")]) == 0
    before = load_file(base / "unet/diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        stem = "network." + name.removesuffix(".weight")
        if (down := last["ema"].get(f"{stem}.lora_A.default.weight")) is not None:
            weight = weight + 3 * last["ema"][f"{stem}.lora_B.default.weight"] @ down  # alpha / rank
            assert not torch.equal(weight, before[name])
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=1e-5)

    # Training of other adapters or of all weights does not resume from these, nor these from all weights.
    resume = [*argv, f"--ckpt_path={tmp_path / 'content/last.ckpt'}", "--trainer.max_steps=5"]
    assert "it was trained with" in error_of(capsys, [*resume, "--model.lora.alpha=2"])
    assert "this run is for all weights" in error_of(capsys, [*resume, "--model.lora=null"])
    argv = [*argv, f"--ckpt_path={trained / 'content/last.ckpt'}"]
    assert "it was trained with all weights" in error_of(capsys, argv)

    # The same adapters in the public layout, on the base itself.
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(tmp_path / "model/lora", weight_name="pytorch_lora_weights.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for name, weight in pipeline.unet.state_dict().items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=1e-5)


def test_adapters_on_another_base_are_reported(base, kind, shards, trained, tmp_path, capsys):
    other = shutil.copytree(base, tmp_path / "sd")
    argv = ["fit", *options("content", other, shards, trained, kind), "--model.lora.rank=2"]
    callbacks = f'[{{"class_path": "LastCheckpoint", "init_args": {{"folder": "{tmp_path}"}}}}]'
    assert main([*argv, f"--trainer.callbacks={callbacks}", f"--trainer.default_root_dir={tmp_path}"]) == 0
    export = ["export", str(trained / "autoencoder/last.ckpt"), str(tmp_path / "last.ckpt")]
    export += [str(trained / "motion/last.ckpt"), str(tmp_path / "model")]
    tuned = UNet2DConditionModel.from_pretrained(other / "unet")
    next(tuned.parameters()).data.add_(0.1)
    tuned.save_pretrained(other / "unet")
    assert "last.ckpt: its base has other weights than in training" in error_of(capsys, export)
    shutil.rmtree(other)
    assert re.search(r"content .*last.ckpt: .*sd: there is no such folder", error_of(capsys, export))


def test_the_noise_schedule_is_that_of_the_base(shards, trained, tmp_path, kind):
    base = write_stable_diffusion(tmp_path / "sd", kind, prediction_type="v_prediction")
    (tmp_path / "autoencoder").mkdir()
    shutil.copy(trained / "autoencoder/last.ckpt", tmp_path / "autoencoder")
    argv = ["fit", *options("content", base, shards, tmp_path, kind)]
    assert main(argv) == 0
    scheduler = torch.load(tmp_path / "content/last.ckpt", weights_only=True)["cmd"]["parts"]["scheduler"]["init_args"]
    assert scheduler["prediction_type"] == "v_prediction"
    assert main([*argv, "--model.objective=FlowMatching"]) == 0  # what the user asks for comes first
    parts = torch.load(tmp_path / "content/last.ckpt", weights_only=True)["cmd"]["parts"]
    assert parts["scheduler"]["class_path"].endswith("FlowMatchEulerDiscreteScheduler")


def error_of(capsys, argv):
    """The one line that a wrong command ends with."""
    capsys.readouterr()
    assert main(argv) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cmd-lightning:")]
    assert "Traceback" not in line
    return line


def test_wrong_bases_are_reported(base, kind, shards, trained, tmp_path, capsys):
    (tmp_path / "autoencoder").mkdir()
    shutil.copy(trained / "autoencoder/last.ckpt", tmp_path / "autoencoder")

    def content(path, *more):
        return error_of(capsys, ["fit", *options("content", path, shards, tmp_path, kind), *more])

    line = content("nobody/stable-diffusion")
    assert re.search(r"model.base nobody/stable-diffusion: it is not a folder, and cannot be loaded from the hub", line)
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in line

    assert "there is no such folder" in content("outputs/no/such")
    shutil.copytree(base, tmp_path / "halves")
    for file in (tmp_path / "halves/unet").glob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert "its weights are of variant fp16" in content(tmp_path / "halves")

    shutil.copytree(base, tmp_path / "headless")
    shutil.rmtree(tmp_path / "headless/unet")
    assert "headless: there is no unet in this folder" in content(tmp_path / "headless")

    other = write_stable_diffusion(tmp_path / "other", {"1.5": "2.1", "2.1": "1.5"}[kind])
    assert re.search(r"its text encoder has \d+ channels, where the U-Net .* 1.5 has 768, 2.1 has 1024", content(other))
    width = UNETS[{"1.5": "2.1", "2.1": "1.5"}[kind]]["cross_attention_dim"]
    line = content(other, f"--model.text_width={width}")
    assert re.search(r"its U-Net has \w+ .*, model.network has .*; take the config of its kind", line)

    argv = [word for word in options("content", base, shards, tmp_path, kind) if not word.startswith("--model.base")]
    assert "model.base" in error_of(capsys, ["fit", *argv])


def test_sizes_that_do_not_divide_are_reported(base, kind, shards, tmp_path, capsys):
    fit = ["fit", *options("autoencoder", base, shards, tmp_path, kind)]
    line = error_of(capsys, [*fit, "--data.size=[40,48]"])  # 8 pixels per point, patches of 2
    assert "data.size [40, 48]: height and width must be multiples of 16" in line
    assert "multiples of 16" in error_of(capsys, [*fit, "--data.size=[36,48]"])


def test_a_stage_alone_is_validated_and_not_tested(base, kind, shards, trained, capsys):
    line = error_of(capsys, ["test", *options("motion", base, shards, trained, kind)])
    assert "as in configs/.../cmd.yaml; for a single stage use `validate`" in line


def test_training_of_another_network_does_not_resume(base, kind, shards, trained, tmp_path, capsys):
    argv = ["fit", *options("motion", base, shards, trained, kind), f"--trainer.default_root_dir={tmp_path}"]
    argv += [f"--ckpt_path={trained / 'motion/last.ckpt'}", "--model.network.width=32"]
    assert "ckpt_path: its network has width 16, this run's has 32; set model.network" in error_of(capsys, argv)


def test_folders_are_found_from_elsewhere(base, kind, shards, tmp_path, monkeypatch):
    """A base that was given by a relative path, in a checkpoint that is read from another folder."""
    argv = ["fit", *options("autoencoder", base.name, shards, tmp_path, kind)]
    argv[argv.index("-c") + 1] = str(Path(argv[argv.index("-c") + 1]).resolve())
    monkeypatch.chdir(base.parent)
    assert main(argv) == 0
    monkeypatch.chdir(tmp_path)
    stage = load_stage(tmp_path / "autoencoder/last.ckpt", "autoencoder", "model")
    assert stage.latent_space.fingerprint == FrameLatents(str(base)).fingerprint


def test_another_vae_than_in_training_is_reported(base, kind, shards, trained, tmp_path, capsys):
    checkpoint = torch.load(trained / "autoencoder/last.ckpt", weights_only=True)
    vae = checkpoint["cmd"]["parts"]["latent_space"]["init_args"]
    assert vae["vae"] == str(base)
    (tmp_path / "autoencoder").mkdir()
    for source, message in (
        (
            str(tmp_path / "gone"),
            "the latent space that it was trained with is missing, put it, or a link to it, where",
        ),
        (str(write_stable_diffusion(tmp_path / "sd", kind)), None),
    ):
        vae["vae"] = source
        torch.save(checkpoint, tmp_path / "autoencoder/last.ckpt")
        if message is None:  # the right folder elsewhere, then another VAE in it
            vae_of(seed=8).save_pretrained(tmp_path / "sd/vae")
            message = "its latent space has other weights than in training"
        assert message in error_of(capsys, ["fit", *options("motion", base, shards, tmp_path, kind)])
