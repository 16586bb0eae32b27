"""`evaluate` on the command line: every kind of input, equal numbers for all, records, and one-line errors."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from cmd_lightning.cli import main
from cmd_lightning.metrics import i3d_weights
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.i3d import I3D
from cmd_lightning.metrics.inception_score import inception_score
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.sheets import SheetSimilarity
from cmd_lightning.shapes.synth import write_shapes
from cmd_lightning.video_encoding import write_video

pytestmark = pytest.mark.filterwarnings("ignore:.*generated clips for")


def clips(count, seed, frames=8, size=32):
    video = torch.rand(count, 3, frames, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (interpolate(video, (frames, size, size), mode="nearest") * 255).byte()


def write_folder(folder, video, suffix="", fps=8.0):
    for index, clip in enumerate(video):
        write_video(folder / f"{index}{suffix}", clip, fps)
    return folder


def mean_pixels():
    """A classifier that is imported: twelve means as logits."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d((1, 2, 2)), torch.nn.Flatten())


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


@pytest.fixture(scope="module")
def network():
    return ShapesFeatures.from_pretrained()


@pytest.fixture
def evaluate(capsys):
    """Runs the verb on options given as keywords; the records, or the line on standard error where it fails."""

    def run(fails=False, **options):
        words = []
        for name, value in {"frames": 8, "workers": 0, "json": "-", **options}.items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        assert main(["evaluate", *words]) == (2 if fails else 0)
        captured = capsys.readouterr()
        if fails:
            assert captured.out == ""
            assert captured.err.splitlines()[-1].startswith("cmd-lightning: ")
            return captured.err.splitlines()[-1]
        return json.loads(captured.out)

    return run


@pytest.mark.parametrize(("kinds", "workers"), [(("real", "fake"), 1), (("real.npy", "fake.pt"), 0)])
def test_distances_are_those_of_the_clips(sets, evaluate, network, kinds, workers):
    folder, real, fake = sets
    options = {"real": folder / kinds[0], "fake": folder / kinds[1], "batch_size": 5, "workers": workers}
    frechet, kernel = evaluate(metrics="frechet:shapes,kernel:shapes", **options)
    x, y = network(real), network(fake)
    assert frechet["value"] == pytest.approx(float(frechet_distance_from_features(x, y)), rel=1e-5)
    assert kernel["value"] == pytest.approx(float(kernel_distance(x, y)), rel=1e-5)
    assert (frechet["metric"], kernel["metric"]) == ("frechet_distance(shapes)", "kernel_distance(shapes)")
    for record in (frechet, kernel):  # no number is naked
        assert record["clips"] == {"real": 12, "fake": 10}
        assert record["features"]["sha256"] == network.origin["sha256"]
        assert record["real"]["frames"] == record["fake"]["frames"] == 8
        assert record["real"]["size"] == [32, 32]
        assert {"versions", "commit", "hardware", "date", "precision"} <= set(record)
    assert "12 real and 10 generated clips for 96 features" in frechet["warnings"][0]


def test_intervals(sets, evaluate, network):
    folder, real, fake = sets
    options = {"real": folder / "real.npy", "fake": folder / "fake.pt", "intervals": True}
    frechet, kernel = evaluate(metrics="frechet:shapes,kernel:shapes", **options)
    assert list(kernel["at"]) == ["2", "5", "10"]
    assert kernel["at"]["10"] == pytest.approx(float(kernel_distance(network(real), network(fake))), rel=1e-5)
    for record in (frechet, kernel):
        assert record["interval_95"][0] < record["value"] < record["interval_95"][1]
    assert "extrapolated from sets not larger than the 96 features" in frechet["warnings"][1]
    assert "warnings" not in kernel
    (few,) = evaluate(**options, metrics="kernel:shapes", num=7)
    assert few["warnings"] == ["no interval of 7 clips; give at least 8"]


def test_statistics_stand_for_the_real_clips(sets, evaluate, tmp_path):
    folder, _, _ = sets
    names, saved = "frechet:shapes,kernel:shapes", tmp_path / "new" / "real.safetensors"
    assert evaluate(real=folder / "real", save_statistics=saved, metrics=names) == []
    by_file = evaluate(statistics=saved, fake=folder / "fake", metrics=names, stride=1)
    by_clips = evaluate(real=folder / "real", fake=folder / "fake", metrics=names)
    assert [record["value"] for record in by_file] == [record["value"] for record in by_clips]
    assert by_file[0]["real"]["path"] == str(folder / "real")
    assert by_file[0]["clips"]["real"] == 12
    message = evaluate(statistics=saved, fake=folder / "fake", metrics=names, stride=2, frames=4, fails=True)
    assert "clips frames: saved with 8, asked with 4" in message


def test_pairs_in_order_of_their_names(sets, evaluate, tmp_path):
    """PSNR against its formula; of seven clips that the seed draws, the same on both sides."""
    folder, real, _ = sets
    noise = torch.tensor([-6, 6])[torch.randint(2, real.shape)]
    noisy = (real.int() + noise).clamp(0, 255).byte()
    write_folder(tmp_path / "noisy", noisy)
    options = {"real": folder / "real", "fake": tmp_path / "noisy", "metrics": "psnr,ssim"}
    psnr = evaluate(**options, batch_size=5)[0]
    error = (noisy.double() - real.double()).square().flatten(1).mean(1)
    assert psnr["value"] == pytest.approx((10 * torch.log10(255**2 / error)).mean().item(), rel=1e-4)
    assert psnr["clips"] == {"fake": 12}
    exact = evaluate(real=folder / "real", fake=folder / "real", metrics="psnr,ssim")
    assert [record["value"] for record in exact] == pytest.approx([106.0206, 1], abs=1e-4)
    some = evaluate(**options, num=7)[0]["value"]
    assert some == evaluate(**options, num=7)[0]["value"]
    assert some != evaluate(**options, num=7, seed=3)[0]["value"]
    first = evaluate(**options, num=3, choose="first")[0]["value"]
    assert first == pytest.approx((10 * torch.log10(255**2 / error[:3])).mean().item(), rel=1e-4)
    message = evaluate(real=folder / "real", fake=folder / "fake", metrics="psnr", fails=True)
    assert f"these have no partner: 2 of {folder / 'real'} (10, 11); rename them" in message
    assert "--random-start" in evaluate(**options, random_start=True, fails=True)
    (small,) = evaluate(**options | {"metrics": "psnr"}, size="16x24")
    assert small["fake"]["size"] == [16, 24]


def psnr_of(one, other):
    """Its formula, in double precision, with the floor of the metric."""
    error = ((one.double() - other.double()) / 127.5).square().flatten(1).mean(1).clamp_min(1e-10)
    return (10 * torch.log10(4 / error)).mean().item()


NAMES = [f"clip{number}" for number in range(4)]


@pytest.mark.parametrize(
    ("names", "order", "warned"),
    [
        (NAMES, [0, 1, 2, 3], False),
        (["clip3", "clip1", "clip0", "clip2"], [3, 1, 0, 2], False),  # of the i-th original; by name all are equal
        ([f"sub/{name}" for name in NAMES[::-1]], [3, 2, 1, 0], False),  # file names, where no path is on both sides
        (["a", "b", "c", "d"], [0, 1, 2, 3], True),
        (["sample-2", "sample-10", "sample-1", "sample-30"], [2, 0, 1, 3], True),  # 1, 2, 10, 30
    ],
)
def test_pairs_by_name_else_by_order(evaluate, tmp_path, names, order, warned):
    """Generated clip i, an original with its brightness changed by 10 i, is written under the i-th name."""
    real = clips(4, 3) // 2
    for name, clip in zip(NAMES, real, strict=True):
        write_video(tmp_path / "real" / name, clip, 8.0)
    fake = [real[int(name[-1])] if name[-5:-1] == "clip" else real[i] for i, name in enumerate(names)]
    fake = torch.stack([clip + 10 * i for i, clip in enumerate(fake)])
    for name, clip in zip(names, fake, strict=True):
        write_video(tmp_path / "fake" / name, clip, 8.0)
    (record,) = evaluate(real=tmp_path / "real", fake=tmp_path / "fake", metrics="psnr")
    by_name = torch.stack([real[int(name[-1])] for name in names]) if not warned else real
    expected = psnr_of(fake if not warned else fake[order], by_name)
    assert record["value"] == pytest.approx(expected, rel=1e-5)
    message = "no name is on both sides, so clips are paired by the order of their names"
    assert record.get("warnings", []) == [message] * warned
    some = evaluate(real=tmp_path / "real", fake=tmp_path / "fake", metrics="psnr", num=2)
    assert some[0]["clips"] == {"fake": 2}


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (NAMES, ["clip0", "clip2", "clip3", "clip9"], ["1 of {real} (clip1)", "1 of {fake} (clip9)"]),
        (NAMES, NAMES[:3], ["1 of {real} (clip3)"]),
        (NAMES[1:], NAMES, ["1 of {fake} (clip0)"]),
        (["a/clip0", "b/clip0"], ["a/clip0", "c/clip0"], ["(b/clip0)", "(c/clip0)"]),
        (NAMES, ["a", "b", "c"], ["4 real clips and 3 generated ones cannot be paired"]),
        ([f"{n}x" for n in range(9)], ["0x", "z"], ["8 of {real} (1x, 2x, 3x, ...)", "(z)"]),
    ],
)
def test_a_missing_partner_is_an_error(evaluate, tmp_path, real, fake, message):
    video = clips(1, 3, frames=8, size=8)[0]
    for side, names in (("real", real), ("fake", fake)):
        for name in names:
            write_video(tmp_path / side / name, video, 8.0)
    sides = {side: tmp_path / side for side in ("real", "fake")}
    line = evaluate(**sides, metrics="psnr", fails=True)
    for text in message:
        assert text.format(**sides) in line


def test_metrics_without_weights_are_named_at_the_end(sets, evaluate, tmp_path, monkeypatch, capsys):
    """What can be computed is, to the same values, and is written before the exit with 2."""
    folder, _, _ = sets
    monkeypatch.setenv("CMD_I3D_WEIGHTS", str(tmp_path / "none.pt"))
    options = {"real": folder / "real", "fake": folder / "fake"}
    (alone,) = evaluate(**options, metrics="kernel:shapes")
    (tmp_path / "prompts.txt").write_text("a caption\n" * 10)
    words = [f"--{name}={value}" for name, value in options.items()]
    words += ["--frames=8", "--workers=0", f"--json={tmp_path / 'found.json'}", f"--prompts={tmp_path / 'prompts.txt'}"]
    clipsim = f"clipsim:ViT-B-32-quickgelu/{tmp_path / 'clip.pt'}"
    assert main(["evaluate", *words, "--metrics", f"fvd,kernel:shapes,{clipsim}"]) == 2
    message = capsys.readouterr()
    assert message.out.startswith("kernel_distance(shapes): ")
    last = message.err.splitlines()[-1]
    assert last.startswith(f"cmd-lightning: --metrics: all but fvd, {clipsim} are done; ")
    assert f"weights {tmp_path / 'none.pt'}: there is no such file" in last
    assert f"fvd is left out: weights {tmp_path / 'none.pt'}" in message.err.splitlines()[0]
    (record,) = json.loads((tmp_path / "found.json").read_text())
    assert (record["metric"], record["value"]) == (alone["metric"], alone["value"])
    words = [word for word in words if "prompts" not in word]
    assert main(["evaluate", *words, "--metrics", "fvd"]) == 2
    assert "all but" not in capsys.readouterr().err


def test_captions(evaluate, tmp_path):
    """CLIP similarity with prompts in the order of the names, eleven of them so that 10 is not before 2."""
    video = clips(11, 5, frames=16)
    folder = write_folder(tmp_path / "fake", video, ".gif")
    options = {"fake": folder, "metrics": "clipsim:shapes", "frames": 16}
    assert "clip 0 has no caption; give --prompts, or" in evaluate(**options, fails=True)
    prompts = [f"a {colour} circle moves left" for colour in ("red", "blue", "green", "white", "yellow")] * 3
    (tmp_path / "prompts.txt").write_text("\n".join(prompts[:11]))
    (by_prompts,) = evaluate(**options, prompts=tmp_path / "prompts.txt")
    metric = SheetSimilarity.from_pretrained()
    from cmd_lightning.video_io import read_video

    metric.update(torch.stack([read_video(folder / f"{index}.gif") for index in range(11)]), prompts[:11])
    assert by_prompts["value"] == pytest.approx(metric.compute().item(), abs=1e-6)
    assert by_prompts["metric"] == "clip_similarity(shapes_clip)"
    for index, prompt in enumerate(prompts[:11]):
        (folder / f"{index}.txt").write_text(prompt)
    assert evaluate(**options)[0]["value"] == pytest.approx(by_prompts["value"], abs=1e-9)
    (tmp_path / "prompts.txt").write_text("one")
    assert "1 captions for 11 clips" in evaluate(**options, prompts=tmp_path / "prompts.txt", fails=True)
    assert "needs generated clips only" in evaluate(**options, real=folder, fails=True)


def test_inception_score(sets, evaluate):
    folder, _, fake = sets
    (record,) = evaluate(fake=folder / "fake", metrics="is:test_evaluate.mean_pixels")
    expected = inception_score(mean_pixels()(fake / 255), splits=10)
    assert (record["value"], record["standard_deviation"]) == pytest.approx([x.item() for x in expected], rel=1e-5)
    assert record["metric"] == "inception_score(test_evaluate.mean_pixels)"


def test_frame_rates_must_agree(evaluate, tmp_path):
    video = clips(3, 7, frames=40)
    for name, rate in (("slow", 8.0), ("fast", 25.0)):
        write_folder(tmp_path / name, video, ".mp4", rate)
    options = {"real": tmp_path / "fast", "fake": tmp_path / "slow", "metrics": "kernel:shapes"}
    message = evaluate(**options, fails=True)
    assert "--fake: clip 0 has 8 frames per second, others 25" in message
    assert "give --fps 8" in message
    (sampled,) = evaluate(**options, fps=8)
    assert "warnings" not in sampled
    assert (sampled["real"]["fps"], sampled["real"]["source_fps"]) == (8, 25)
    (strided,) = evaluate(**options, stride=1)
    assert "from 8 to 25 frames per second" in strided["warnings"][0]
    assert "--stride 1, --fps 8" in evaluate(**options, stride=1, fps=8, fails=True)
    saved = tmp_path / "fast.safetensors"
    evaluate(real=tmp_path / "fast", metrics="kernel:shapes", save_statistics=saved)
    assert "give --fps 8" in evaluate(statistics=saved, fake=tmp_path / "slow", metrics="kernel:shapes", fails=True)


@pytest.mark.slow
def test_shards_and_several_processes(evaluate, tmp_path):
    """Two processes with uneven numbers of clips give the numbers of one."""
    for split, num in (("real", 11), ("fake", 8)):
        write_shapes(tmp_path / split, num=num, size=32, frames=8, fps=8.0, seed=0, split=split, shard_size=4)
    options = ["--real", tmp_path / "real", "--fake", tmp_path / "fake", "--metrics", "frechet:shapes,kernel:shapes"]
    options += ["--frames", 8, "--workers", 0, "--batch-size", 3, "--devices", 2, "--json", tmp_path / "two.json"]
    two = subprocess.run(
        [sys.executable, "-m", "cmd_lightning", "evaluate", *map(str, options)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    one = evaluate(real=tmp_path / "real", fake=tmp_path / "fake", metrics="frechet:shapes,kernel:shapes", batch_size=3)
    for alone, together in zip(one, json.loads((tmp_path / "two.json").read_text()), strict=True):
        assert together["clips"] == alone["clips"] == {"real": 11, "fake": 8}
        assert together["value"] == pytest.approx(alone["value"], rel=1e-5)
    assert two.stdout.count("frechet_distance(shapes)") == 1


@pytest.mark.slow
def test_a_mistake_on_one_of_two_processes_is_reported_once(python, tmp_path):
    """And a process that has no generated clip is none."""
    video = torch.rand(3, 3, 8, 32, 32)
    torch.save(video, tmp_path / "real.pt")
    torch.save(video[:2], tmp_path / "good.pt")
    video[1, 0, 0, 0, 0] = torch.nan  # the second process's
    torch.save(video, tmp_path / "bad.pt")
    options = ["--real", tmp_path / "real.pt", "--metrics", "kernel:shapes", "--frames", 8, "--workers", 0]
    for devices, fake, code, message in ((2, "bad.pt", 2, "bad.pt clip 1: holds NaN"), (3, "good.pt", 0, "")):
        command = ["-m", "cmd_lightning", "evaluate", *options, "--fake", tmp_path / fake, "--devices", devices]
        run = python.run(*command)
        assert run.returncode == code, run.stderr
        assert "Traceback" not in run.stderr
        assert run.stderr.count(message) == 1 or not message
        assert run.stdout.count("kernel_distance(shapes)") == (not code)


@pytest.mark.slow
def test_only_published_weights_make_it_fvd(sets, evaluate, tmp_path, monkeypatch):
    folder, _, _ = sets
    path = tmp_path / "mine.pt"
    torch.save(I3D().state_dict(), path)
    monkeypatch.setenv("CMD_I3D_WEIGHTS", str(path))
    nine = np.load(folder / "real.npy")[:3].repeat(2, axis=1)[:, :9]
    np.save(tmp_path / "real.npy", nine)
    np.save(tmp_path / "fake.npy", nine[::-1] // 2)
    options = {"real": tmp_path / "real.npy", "fake": tmp_path / "fake.npy", "preset": "tf,side=193", "metrics": "fvd"}
    (record,) = evaluate(**options, frames=9)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["metric"] == f"frechet_distance(i3d (unpublished weights {sha256[:8]}))"
    assert record["features"]["sha256"] == sha256
    assert record["features"]["protocol"]["side"] == 193
    assert any("mine.pt: of unknown origin" in warning for warning in record["warnings"])
    blob = i3d_weights.git_blob_id(path.read_bytes())
    monkeypatch.setitem(i3d_weights.PUBLISHED, "i3d", blob)
    monkeypatch.setitem(i3d_weights.PUBLIC, blob, next(iter(i3d_weights.PUBLIC.values())))
    published, kernel = evaluate(**options | {"metrics": "fvd,kvd"}, frames=9)
    assert (published["metric"], kernel["metric"]) == ("fvd", "kvd")
    assert published["value"] == record["value"]
    assert "video of 8 frames: the I3D needs at least 9" in evaluate(**options, fails=True)
    torch.save({"logits.weight": torch.zeros(3)}, path)
    assert "Conv3d_1a_7x7.conv3d.weight is missing" in evaluate(**options, fails=True)


def test_mistakes_are_reported_on_one_line(sets, evaluate, tmp_path):
    folder, real, _ = sets
    good = {"real": folder / "real", "fake": folder / "fake", "metrics": "kernel:shapes"}
    np.save(tmp_path / "grey.npy", np.zeros((4, 8, 32, 32, 1), np.uint8))
    np.save(tmp_path / "alpha.npy", np.zeros((4, 8, 32, 32, 4), np.uint8))
    np.save(tmp_path / "three.npy", np.zeros((4, 3, 3, 32, 32), np.uint8))
    nan = torch.rand(4, 3, 8, 32, 32)
    nan[2, 0, 0, 0, 0] = torch.nan
    torch.save(nan, tmp_path / "nan.pt")
    torch.save(real[:1], tmp_path / "one.pt")
    torch.save(torch.zeros(4, 3, 8, 16, 16, dtype=torch.uint8), tmp_path / "small.pt")
    torch.save(torch.zeros(2, 3, 8, 16, 24, dtype=torch.uint8), tmp_path / "wide.pt")
    torch.save(torch.zeros(2, 3, 8, 10, 24, dtype=torch.uint8), tmp_path / "tiny.pt")
    write_folder(tmp_path / "mixed", [clips(1, 0, size=32)[0], clips(1, 1, size=16)[0]])
    (tmp_path / "prompts.txt").write_text("a caption")
    for changes, message in (
        ({"real": tmp_path / "none"}, "there is no such file or folder"),
        ({"fake": tmp_path / "grey.npy"}, "repeat a grey channel"),
        ({"fake": tmp_path / "alpha.npy"}, "alpha"),
        ({"fake": tmp_path / "three.npy", "frames": 3}, "layout"),
        ({"fake": tmp_path / "nan.pt"}, "NaN"),
        ({"fake": tmp_path / "nan.pt", "workers": 1}, "NaN"),
        ({"fake": tmp_path / "one.pt"}, "number of clips 1; kernel_distance(shapes) needs at least 2"),
        ({"fake": tmp_path / "small.pt"}, "32x32 pixels, --fake has 16x16 pixels: the sizes must be equal"),
        ({"fake": tmp_path / "small.pt"}, "give --size 16"),
        ({"fake": tmp_path / "mixed"}, "give one size for all, as --size 64"),
        ({"fake": tmp_path / "wide.pt", "real": tmp_path / "wide.pt"}, "--size 64 makes them square"),
        ({"fake": tmp_path / "tiny.pt", "real": tmp_path / "tiny.pt", "metrics": "ssim"}, "give --size 64"),
        ({"num": 2048}, "give --num 12"),
        ({"frames": 9}, "8 frames"),
        ({"metrics": "fvdd"}, "metrics fvdd: there is no such metric"),
        ({"metrics": ","}, "--metrics: none given"),
        ({"metrics": "frechet"}, "give the features"),
        ({"metrics": "frechet:nowhere/at-all"}, "nowhere/at-all"),
        ({"metrics": "frechet:no.such_network"}, "no.such_network"),
        ({"metrics": "is:shapes"}, "give the classifier"),
        ({"preset": "videogpt"}, "none of the metrics"),
        ({"size": "64by64"}, "--size 64by64"),
        ({"statistics": tmp_path / "x.safetensors"}, "give one of the two"),
        ({"save_statistics": tmp_path / "x.npz"}, "ends in .safetensors"),
        ({"prompts": tmp_path / "prompts.txt"}, "uses no captions"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"nodes": 0}, "--nodes 0"),
        ({"devices": 13}, "12 clips are too few"),
        ({"nodes": 2}, "with torchrun"),
        ({"metrics": "clipsim:ViT-B-32"}, "give model and weights"),
        ({"metrics": "frechet:frechet, frechet:frechet"}, "checkpoint frechet"),
        ({"json": tmp_path}, "it is a folder"),
    ):
        assert message in evaluate(**good | changes, fails=True), changes
    (chosen,) = evaluate(**good | {"fake": tmp_path / "three.npy", "real": tmp_path / "three.npy", "frames": 3,
                                   "metrics": "frechet:test_evaluate.mean_pixels"}, layout="NCTHW")  # fmt: skip
    assert chosen["fake"]["size"] == [32, 32]
    assert "no statistics" in evaluate(
        statistics=folder / "fake.pt", fake=folder / "fake", metrics="kernel:shapes", fails=True
    )
