"""`evaluate` as people call it: every kind of input, one number whichever way, records, and one line for a mistake."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from cmd_lightning.cli import main
from cmd_lightning.data.synth import write_shapes
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.i3d import I3D
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.metrics.shapes_features import ShapesFeatures
from cmd_lightning.video_io import write_video

pytestmark = pytest.mark.filterwarnings("ignore:.*generated clips for 96 features")
QUICK = ["--workers", "0"]


def clips(count, seed, frames=8, size=32):
    generator = torch.Generator().manual_seed(seed)
    video = torch.rand(count, 3, frames, 4, 4, generator=generator)
    video = torch.nn.functional.interpolate(video, (frames, size, size), mode="nearest")
    return (video * 255).byte()


def write_folder(folder, video, suffix=""):
    for index, clip in enumerate(video):
        write_video(folder / f"{index:02}{suffix}", clip, 8.0)
    return str(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Twelve real and ten generated clips: as PNG folders and as arrays."""
    folder = tmp_path_factory.mktemp("sets")
    real, fake = clips(12, 0), clips(10, 1)
    np.save(folder / "real.npy", real.permute(0, 2, 3, 4, 1).numpy())
    torch.save(fake, folder / "fake.pt")
    write_folder(folder / "real", real)
    write_folder(folder / "fake", fake)
    return folder, real, fake


def evaluate(capsys, *options, code=0):
    """Runs the verb; the records, or the line on standard error."""
    assert main(["evaluate", *map(str, options), *QUICK, "--frames", "8", "--json", "-"]) == code
    captured = capsys.readouterr()
    if code:
        assert captured.out == ""
        return captured.err.splitlines()[-1]
    return json.loads(captured.out)


@pytest.mark.parametrize("kinds", [("real", "fake"), ("real.npy", "fake.pt")])
def test_distances_are_those_of_the_clips(sets, capsys, kinds):
    folder, real, fake = sets
    options = ("--real", folder / kinds[0], "--fake", folder / kinds[1], "--batch-size", 5)
    frechet, kernel = evaluate(capsys, *options, "--metrics", "frechet:shapes,kernel:shapes")
    network = ShapesFeatures.from_pretrained()
    x, y = network(real), network(fake)
    assert frechet["value"] == pytest.approx(float(frechet_distance_from_features(x, y)), rel=1e-5)
    assert kernel["value"] == pytest.approx(float(kernel_distance(x, y)), rel=1e-5)
    assert (frechet["metric"], kernel["metric"]) == ("frechet_distance(shapes)", "kernel_distance(shapes)")
    for record in (frechet, kernel):  # no number is naked
        assert record["clips"] == {"real": 12, "generated": 10}
        assert record["features"]["sha256"] == network.origin["sha256"]
        assert record["real"]["frames"] == record["generated"]["frames"] == 8
        assert record["real"]["size"] == [32, 32]
        assert {"versions", "commit", "hardware", "date", "precision"} <= set(record)
    assert "12 real and 10 generated clips for 96 features" in frechet["warnings"][0]


def test_intervals(sets, capsys):
    folder, real, fake = sets
    options = ("--real", folder / "real.npy", "--fake", folder / "fake.pt", "--metrics", "kernel:shapes", "--intervals")
    (record,) = evaluate(capsys, *options)
    assert list(record["at"]) == ["2", "5", "10"]
    network = ShapesFeatures.from_pretrained()
    assert record["at"]["10"] == pytest.approx(float(kernel_distance(network(real[:12]), network(fake))), rel=1e-5)
    assert record["interval_95"][0] < record["value"] < record["interval_95"][1]


def test_statistics_stand_for_the_real_clips(sets, capsys, tmp_path):
    folder, _, _ = sets
    names, saved = ("--metrics", "frechet:shapes", "kernel:shapes"), tmp_path / "real.safetensors"
    assert evaluate(capsys, "--real", folder / "real", "--save-statistics", saved, *names) == []
    by_file = evaluate(capsys, "--statistics", saved, "--fake", folder / "fake", *names)
    by_clips = evaluate(capsys, "--real", folder / "real", "--fake", folder / "fake", *names)
    assert [record["value"] for record in by_file] == [record["value"] for record in by_clips]
    assert by_file[0]["real"]["path"] == str(folder / "real")
    told = evaluate(capsys, "--statistics", saved, "--fake", folder / "fake", "--stride", 1, *names, code=2)
    assert "clips stride: saved with None, asked with 1" in told


def test_pairs_and_captions(sets, capsys, tmp_path):
    """PSNR of pairs in the order of their names, against its formula; CLIP similarity with prompts in that order."""
    folder, real, _ = sets
    noisy = (real[:10].int() + torch.tensor([-6, 6])[torch.randint(2, real[:10].shape)]).clamp(0, 255).byte()
    torch.save(noisy, tmp_path / "noisy.pt")
    torch.save(real[:10], tmp_path / "ten.pt")
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red circle moves left {i}" for i in range(10)))
    options = ("--real", tmp_path / "ten.pt", "--fake", tmp_path / "noisy.pt", "--prompts", tmp_path / "prompts.txt")
    psnr, ssim = evaluate(capsys, *options, "--metrics", "psnr", "ssim", "--num", "7")
    chosen = torch.tensor(sorted(random_choice(10, 7)))
    error = (noisy[chosen].double() - real[chosen].double()).square().flatten(1).mean(1)
    assert psnr["value"] == pytest.approx((10 * torch.log10(255**2 / error)).mean().item(), rel=1e-4)
    assert 0.5 < ssim["value"] < 1
    assert "no pairs" in evaluate(
        capsys, "--real", folder / "real", "--fake", folder / "fake", "--metrics", "psnr", code=2
    )


def random_choice(there, number, seed=0):
    from cmd_lightning.data.selection import Selection

    return Selection(num=number, seed=seed).clips(there, "path")


def test_captions_of_clips_and_prompts(capsys, tmp_path):
    video = clips(3, 5, frames=16)
    folder = tmp_path / "fake"
    write_folder(folder, video, ".gif")
    options = ("--real", folder, "--fake", folder, "--metrics", "clipsim:shapes", "--frames", 16)
    arguments = ["evaluate", *map(str, options), *QUICK, "--json", "-"]
    assert main(arguments) == 2
    assert "clip 00 has no caption; give --prompts FILE" in capsys.readouterr().err
    prompts = ["a red circle moves left", "a blue square moves up", "a green triangle moves right"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    assert main([*arguments, "--prompts", str(tmp_path / "prompts.txt")]) == 0
    by_prompts = json.loads(capsys.readouterr().out)[0]
    for index, prompt in enumerate(prompts):
        (folder / f"{index:02}.txt").write_text(prompt)
    assert main(arguments) == 0
    beside = json.loads(capsys.readouterr().out)[0]
    assert beside["value"] == by_prompts["value"]
    assert beside["metric"] == "clip_similarity(shapes)"
    (folder / "00.txt").write_text(prompts[1])
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)[0]["value"] != by_prompts["value"]
    (tmp_path / "prompts.txt").write_text("one")
    assert main([*arguments, "--prompts", str(tmp_path / "prompts.txt")]) == 2
    assert "1 captions for 3 clips" in capsys.readouterr().err


def test_frame_rates_must_agree(capsys, tmp_path):
    for name, rate in (("slow", 8.0), ("fast", 25.0)):
        for index, clip in enumerate(clips(3, 7, frames=40)):
            write_video(tmp_path / name / f"{index}.mp4", clip, rate)
    options = ("--real", tmp_path / "fast", "--fake", tmp_path / "slow", "--metrics", "kernel:shapes")
    told = evaluate(capsys, *options, code=2)
    assert "real clips have 25 frames a second, generated ones 8" in told
    assert "give --fps 8" in told
    (sampled,) = evaluate(capsys, *options, "--fps", 8)
    assert "warnings" not in sampled
    (strided,) = evaluate(capsys, *options, "--stride", 1)
    assert "25 frames a second" in strided["warnings"][0]
    saved = tmp_path / "fast.safetensors"
    evaluate(capsys, "--real", tmp_path / "fast", "--metrics", "kernel:shapes", "--save-statistics", saved)
    options = ("--statistics", saved, "--fake", tmp_path / "slow", "--metrics", "kernel:shapes")
    assert "give --fps 8" in evaluate(capsys, *options, code=2)


def test_shards_and_several_processes(capsys, tmp_path):
    """Two processes with uneven numbers of clips give the numbers of one."""
    for split, num in (("real", 11), ("fake", 8)):
        write_shapes(tmp_path / split, num=num, size=32, frames=8, fps=8.0, seed=0, split=split, shard_size=4)
    options = ["--real", tmp_path / "real", "--fake", tmp_path / "fake", "--metrics", "frechet:shapes,kernel:shapes"]
    one = evaluate(capsys, *options, "--batch-size", 3)
    command = [sys.executable, "-m", "cmd_lightning", "evaluate", *map(str, options), *QUICK, "--frames", "8"]
    two = subprocess.run(
        [*command, "--batch-size", "3", "--devices", "2", "--json", str(tmp_path / "two.json")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    for alone, together in zip(one, json.loads((tmp_path / "two.json").read_text()), strict=True):
        assert together["clips"] == alone["clips"] == {"real": 11, "generated": 8}
        assert together["value"] == pytest.approx(alone["value"], rel=1e-5)
    assert two.stdout.count("frechet_distance(shapes)") == 1


def test_mistakes_are_told_on_one_line(sets, capsys, tmp_path):
    folder, real, _ = sets
    good = {"--real": folder / "real", "--fake": folder / "fake", "--metrics": "kernel:shapes"}
    np.save(tmp_path / "grey.npy", np.zeros((4, 8, 32, 32, 1), np.uint8))
    np.save(tmp_path / "alpha.npy", np.zeros((4, 8, 32, 32, 4), np.uint8))
    nan = torch.rand(4, 3, 8, 32, 32)
    nan[2, 0, 0, 0, 0] = torch.nan
    torch.save(nan, tmp_path / "nan.pt")
    torch.save(real[:1], tmp_path / "one.pt")
    torch.save(torch.zeros(4, 3, 8, 16, 16, dtype=torch.uint8), tmp_path / "small.pt")
    write_folder(tmp_path / "mixed", [clips(1, 0, size=32)[0], clips(1, 1, size=16)[0]])
    (tmp_path / "prompts.txt").write_text("a caption")
    for changes, told in (
        ({"--real": tmp_path / "none"}, "none"),
        ({"--fake": tmp_path / "grey.npy"}, "repeat a grey channel"),
        ({"--fake": tmp_path / "alpha.npy"}, "alpha"),
        ({"--fake": tmp_path / "nan.pt"}, "NaN"),
        ({"--fake": tmp_path / "one.pt"}, "at least 2 real and 2 generated clips, not 12 and 1"),
        ({"--fake": tmp_path / "small.pt"}, "one size first"),
        ({"--fake": tmp_path / "mixed"}, "--size"),
        ({"--num": 2048}, "--num 12"),
        ({"--frames": 9}, "8 frames"),
        ({"--metrics": "fvdd"}, "metrics fvdd: there is no such metric"),
        ({"--metrics": "frechet"}, "say over which features"),
        ({"--metrics": "frechet:nowhere/at-all"}, "nowhere/at-all"),
        ({"--metrics": "frechet:no.such_network"}, "no.such_network"),
        ({"--preset": "videogpt"}, "none of the metrics"),
        ({"--size": "64by64"}, "--size 64by64"),
        ({"--statistics": tmp_path / "x.safetensors"}, "give one of the two"),
        ({"--save-statistics": tmp_path / "x.npz"}, "end the name in .safetensors"),
        ({"--prompts": tmp_path / "prompts.txt"}, "1 captions for 10 clips"),
        ({"--batch-size": 0}, "--batch-size 0"),
    ):
        options = [word for pair in (good | changes).items() for word in pair]
        assert (
            main(["evaluate", *map(str, [*(() if "--frames" in changes else ("--frames", 8)), *options, *QUICK])]) == 2
        ), changes
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("cmd-lightning: "), changes
        assert told in line, (changes, line)


@pytest.mark.filterwarnings("ignore:.*generated clips for 400 features")
def test_weights_of_unknown_origin_are_not_called_fvd(sets, capsys, tmp_path, monkeypatch):
    folder, _, _ = sets
    path = tmp_path / "mine.pt"
    torch.save(I3D().state_dict(), path)
    monkeypatch.setenv("CMD_I3D_WEIGHTS", str(path))
    nine = np.load(folder / "real.npy")[:3].repeat(2, axis=1)[:, :9]
    np.save(tmp_path / "real.npy", nine)
    np.save(tmp_path / "fake.npy", nine[::-1] // 2)
    good = [
        "--real",
        tmp_path / "real.npy",
        "--fake",
        tmp_path / "fake.npy",
        "--metrics",
        "fvd",
        "--preset",
        "tf,side=193",
    ]
    arguments = ["evaluate", *map(str, good), *QUICK, "--json", "-", "--frames"]
    assert main([*arguments, "9"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["metric"] == f"frechet_distance(i3d (unpublished weights {sha256[:8]}))"
    assert record["features"]["sha256"] == sha256
    assert record["features"]["protocol"]["side"] == 193
    assert any("mine.pt: of unknown origin" in warning for warning in record["warnings"])
    assert main([*arguments, "8"]) == 2
    assert "video of 8 frames: the I3D needs at least 9" in capsys.readouterr().err.splitlines()[-1]
    torch.save({"logits.weight": torch.zeros(3)}, path)
    assert main([*arguments, "9"]) == 2
    assert "Conv3d_1a_7x7.conv3d.weight is missing" in capsys.readouterr().err.splitlines()[-1]
