"""How the choices of `Viewing` reach frames: from Python, from YAML and from the commands."""

import json

import numpy as np
import pytest
import torch
import yaml
from odd_videos import as_ffmpeg_shows
from PIL import Image
from shown_videos import bright, close, coded, fields, glass, ramps

from cmd_lightning.cli import main
from cmd_lightning.commands import shards
from cmd_lightning.commands.generation import read_image_file
from cmd_lightning.data.clips import ClipLoader
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.evaluation.sources import Selection, open_source
from cmd_lightning.video_encoding import write_video
from cmd_lightning.video_io import read_video
from cmd_lightning.viewing import Viewing

FIELDS = {"x264-params": "tff=1", "crf": "5"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Class folders of interlaced, HDR, transparent and ordinary clips, and their shards."""
    folder = tmp_path_factory.mktemp("clips")
    made = {
        "fields/0.mp4": coded(fields(), **FIELDS),
        "fields/1.mkv": coded(fields(), "matroska", **FIELDS),
        "bright/0.mkv": bright(16, "libx264"),
        "glass/0.mkv": coded(glass(), "matroska", "ffv1", "bgra"),
        "plain/0.mp4": coded(ramps()),
    }
    for name, data in made.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    shards.pack(videos=str(folder), out=str(folder / "packed"))
    return folder


def test_check_reports_what_leaves_a_choice(clips, capsys):
    shards.check([str(clips / "packed")], json="-")
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["samples"], report["interlaced"], report["hdr"], report["transparent"]) == (5, 2, 1, 1)
    for text in (
        "2 good videos are interlaced",
        "data.viewing.deinterlace",
        "data.viewing.tone_map",
        "1 good videos are hdr",
    ):
        assert text in err
    clips = {size: amount["clips"] for size, amount in report["sizes"].items()}
    assert clips == {"24x16": 1, "448x16": 1, "48x32": 3}


def test_check_is_silent_on_ordinary_clips(tmp_path, capsys):
    (tmp_path / "in" / "a").mkdir(parents=True)
    write_video(tmp_path / "in" / "a" / "0.mp4", torch.zeros(3, 4, 16, 16, dtype=torch.uint8), 8)
    shards.pack(videos=str(tmp_path / "in"), out=str(tmp_path / "out"))
    shards.check([str(tmp_path / "out")], json="-")
    assert not {"interlaced", "hdr", "transparent"} & json.loads(capsys.readouterr().out).keys()


@pytest.mark.parametrize("viewing", [Viewing(), Viewing(deinterlace=True), Viewing(background="lime")])
def test_data_modules_show_frames_as_chosen(clips, viewing):
    module = WebVidDataModule(test_shards=str(clips / "packed"), num_frames=2, size=16, batch_size=1, viewing=viewing)
    found = {batch["key"][0]: batch["video"][0] for batch in module.test_dataloader()}
    assert len(found) == 5
    loader = ClipLoader(2, (16, 16), viewing=viewing)
    paths = sorted(path for path in clips.glob("*/*") if path.suffix in (".mp4", ".mkv"))
    wanted = [loader({"__key__": "a", path.suffix[1:]: path.read_bytes()}, 0)["video"] for path in paths]
    assert all(any(torch.equal(video, one) for one in wanted) for video in found.values())
    plain = [
        ClipLoader(2, (16, 16))({"__key__": "a", path.suffix[1:]: path.read_bytes()}, 0)["video"] for path in paths
    ]
    changed = {
        path.parent.name for path, one, two in zip(paths, wanted, plain, strict=True) if not torch.equal(one, two)
    }
    assert changed == ({"fields"} if viewing.deinterlace else {"glass"} if viewing.background == "lime" else set())
    assert module.describe().get("viewing", {}) == ({} if viewing == Viewing() else vars(viewing))


def test_yaml_and_the_command_line_set_them(capsys):
    options = ["--data.viewing.deinterlace", "true", "--data.viewing.background", "black", "--print_config"]
    assert main(["fit", "-c", "configs/clips64/autoencoder.yaml", *options]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["viewing"]
    assert printed == {"deinterlace": True, "tone_map": False, "background": "black"}
    assert main(["fit", "-c", "configs/clips64/autoencoder.yaml", "--data.viewing.background", "blakc"]) == 2
    assert "background blakc: not a colour" in capsys.readouterr().err


def test_evaluate_reads_both_sets_as_chosen(tmp_path, clips, capsys):
    fake = tmp_path / "fake"
    write_video(
        fake / "0", as_ffmpeg_shows(coded(fields(), **FIELDS), ("bwdif", "mode=send_frame:deint=interlaced")), 10
    )
    real = tmp_path / "real"
    real.mkdir()
    (real / "0.mp4").write_bytes((clips / "fields" / "0.mp4").read_bytes())
    scores = {}
    for options in ((), ("--deinterlace",)):
        arguments = ["evaluate", "--real", str(real), "--fake", str(fake), "--metrics", "psnr", "--frames", "8"]
        assert main([*arguments, "--workers", "0", "--json", "-", *options]) == 0
        (record,) = json.loads(capsys.readouterr().out)
        scores[options] = record["value"]
        assert record["real"].get("viewing", {}).get("deinterlace", False) == bool(options)
    assert scores[("--deinterlace",)] > 45 > 30 > scores[()]
    assert main([*arguments, "--background", "no colour"]) == 2
    assert "background no colour" in capsys.readouterr().err


def test_sources_show_folders_of_frames_over_the_background(tmp_path):
    for number in range(3):
        Image.fromarray(glass()[number]).save(tmp_path / f"{number}.png")
    (clip,) = open_source(tmp_path, Selection(frames=3, viewing=Viewing(background="blue")))
    assert clip["video"][:, 0, 8, 20].tolist() == [0, 0, 255]
    close(clip["video"], read_video(tmp_path, viewing=Viewing(background="blue")), 0)


def test_an_image_to_set_in_motion_is_read_over_the_background(tmp_path):
    Image.fromarray(glass()[0]).save(tmp_path / "a.png")
    for background, wanted in (("white", [255, 255, 255]), ("black", [0, 0, 0]), ("red", [255, 0, 0])):
        assert read_image_file(str(tmp_path / "a.png"), background)[:, 8, 20].tolist() == wanted
    deep = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    close(read_image_file(str(tmp_path / "deep.png"))[0], torch.from_numpy(deep / 257.0), 1)
