"""The efficiency benchmark, made small: cells, rows, tables, plot, and requirements of the machine."""

import json
from functools import partial

import pytest
import torch

from benchmarks.calls import NETWORKS
from benchmarks.efficiency import __main__ as program
from benchmarks.efficiency import scales, timing
from benchmarks.efficiency.rows import FIELDS
from benchmarks.efficiency.systems import Assembled, System, image_decoders, in_pixels
from benchmarks.efficiency.timing import Settings, cells, measure, optimise
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.provenance import processor
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.autoencoders.triplane import TriplaneAutoencoder
from cmd_lightning.zoo.baselines.lvdm import LVDM
from cmd_lightning.zoo.baselines.pvdm import TriplaneUNet
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.dit import MotionDiT

CHANNELS = {"block_out_channels": (32, 32), "layers_per_block": 1, "attention_head_dim": 2}
SMALL = {
    "CMD": System(
        {
            "content": partial(unet, **NETWORKS["content"] | CHANNELS),
            "motion": partial(MotionDiT, **NETWORKS["motion"] | {"width": 16, "depth": 1, "heads": 2}),
        },
        partial(CMDAutoencoder, **NETWORKS["autoencoder, measured"] | {"width": 16, "depth": 1, "heads": 2}),
        width=8,
        tokens=3,
        frames=2,
        decoders=image_decoders(4),
    ),
    "LVDM": System(
        {"denoiser": partial(LVDM, width=32, multipliers=(1, 1), layers=1, heads=2)}, width=8, tokens=3, frames=2
    ),
    "PVDM-like": System(
        {"denoiser": partial(TriplaneUNet, width=32, multipliers=(1, 1), layers=1, heads=2)},
        partial(TriplaneAutoencoder, width=16, depth=1, heads=2, head_dim=8),
        width=8,
        tokens=3,
        frames=2,
        space=in_pixels,
    ),
}
KEYS = ("system", "resolution", "batch", "guidance", "compiled")


@pytest.fixture(autouse=True, scope="module")
def small_scale():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.SCALES, "small", SMALL)
        yield


def small(**changes):
    fixed = {"resolutions": ("64x64", "64x128"), "batches": (1, 2), "steps": (2, 4), "compiled": (False,)}
    about = {"scale": "small", "device": "cpu", "dtype": "float32", "rounds": 1, "warm_up": 1, "timed_steps": 1}
    return Settings(**fixed | about | changes)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """All cells of one resolution, the systems taking turns, in two calls of the program."""
    path = tmp_path_factory.mktemp("efficiency") / "cpu.json"
    settings = small(together=True, resolutions=("64x64",))
    assert "rows" in program.time(settings, path, minutes=60)
    return settings, path, json.loads(path.read_text())


def test_rows_have_the_fields_exactly(result):
    found = result[2]
    assert {tuple(row) for row in found["rows"]} == {FIELDS}  # in this order
    whole = [row for row in found["rows"] if row["component"] == "video"]
    # 2 batches x 2 guidances x 2 numbers of steps, CMD's with three frame decoders
    assert len(whole) == 8 * (3 + 1 + 1)
    for row in found["rows"]:
        assert row["seconds"] > 0 and row["tmacs"] > 0 and row["params"] > 0
        assert (row["memory_gb"], row["dtype"], row["frames"]) == (None, "float32", 2)
        assert row["device"] == f"{processor()}, one thread"  # whatever else the machine has
        assert row["reported"] is None  # as nothing is of networks so small
    assert {row["component"] for row in found["rows"]} == {
        *("video", "content", "motion", "denoiser", "autoencoder", "frame decoder")
    }
    assert found.keys() >= {"settings", "protocol", "hardware", "versions", "commit"}


def test_the_core_cell_alone_is_timed_as_a_whole(result):
    settings, _, found = result
    for row in found["rows"]:
        core = (settings.core | {"component": "video", "steps": 2}).items() <= row.items()
        assert (row["extrapolated"] is False) == core
        if core:
            assert len(row["rounds"]) == settings.rounds
            assert row["seconds"] == pytest.approx(sum(row["rounds"]))


def test_costs_of_a_video_add_up(result):
    """Of steps, guidance, batch and frame decoder."""
    _, _, found = result
    rows = {
        tuple(row[key] for key in ("system", "batch", "guidance", "steps", "decoder")): row["tmacs"]
        for row in found["rows"]
        if row["component"] == "video"
    }
    assert rows["LVDM", 1, False, 4, "none"] == pytest.approx(2 * rows["LVDM", 1, False, 2, "none"])
    assert rows["LVDM", 1, True, 2, "none"] == pytest.approx(rows["LVDM", 1, False, 4, "none"])
    assert rows["CMD", 2, False, 2, "full"] == pytest.approx(2 * rows["CMD", 1, False, 2, "full"])
    assert rows["CMD", 1, False, 2, "full"] > rows["CMD", 1, False, 2, "tiny"] > rows["CMD", 1, False, 2, "none"]
    # the autoencoder is once in a video
    two, four = rows["CMD", 1, False, 2, "none"], rows["CMD", 1, False, 4, "none"]
    once = next(row["tmacs"] for row in found["rows"] if row["component"] == "autoencoder" and row["system"] == "CMD")
    assert 2 * two - four == pytest.approx(once)


def test_table_and_plot(result):
    settings, path, found = result
    assert path.with_suffix(".svg").read_text().count("<svg") == 1
    text = program.timing_tables(found["rows"], settings.core)
    assert "| CMD | 2 | no | full | " in text
    assert "| LVDM | 4 | no | none | " in text and "| ≈ " in text
    assert "| LVDM / CMD | no | " in text and "| PVDM-like / LVDM | no | " in text
    assert "| size | batch | steps | guidance | compiled | frame decoder | LVDM / CMD | PVDM-like / CMD |" in text


def test_another_call_continues_and_other_settings_are_rejected(result, monkeypatch):
    settings, path, found = result
    monkeypatch.setattr(program, "measure", lambda *_: pytest.fail("measured again"))
    assert program.time(settings, path, 60)["rows"] == found["rows"]
    with pytest.raises(InputError, match=r"its results are of other settings; give another file"):
        program.time(small(together=True), path, 60)


def test_core_cells_of_all_systems_come_first():
    order = [tuple(cell[key] for key in KEYS) for cell in cells(small(compiled=(False, True)))]
    core = [("64x128", 1, False, compiled) for compiled in (False, True)]
    assert order[:6] == [(system, *at) for at in core for system in SMALL]
    assert len(order) == len(set(order)) == 3 * 2 * 2 * 2 * 2
    assert [at[-1] for at in order[6:]] == [False] * 21 + [True] * 21


def test_memory_that_does_not_suffice_is_a_result(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(timing, "Run", full)
    settings = small()
    rows = measure(cells(settings)[0], settings)
    assert [(row["component"], row["steps"], row["seconds"]) for row in rows] == [("video", n, None) for n in (2, 4)]
    assert "did not fit" in program.timing_tables(rows, settings.core)


@pytest.mark.slow
def test_compiled_cell():
    settings = small(compiled=(True,), batches=(1,), guidance=(False,), resolutions=("64x64",), decoders=("tiny",))
    assert all(row["compiled"] and row["seconds"] > 0 for row in measure(cells(settings)[0], settings))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("guidance", [False, True])
def test_a_sample_is_a_videos_latents(name, guidance):
    """Each denoiser is called once a step, on both captions under guidance."""
    assembled = Assembled(SMALL[name], (64, 128), torch.device("cpu"))
    seen = {part: [] for part in assembled.denoisers}
    for part, network in assembled.denoisers.items():
        network.register_forward_pre_hook(lambda _, given, part=part: seen[part].append(len(given[0])))
    noise = {part: torch.randn(2, *shape) for part, shape in assembled.shapes.items()}
    captions = [Condition(torch.randn(2, 8), torch.randn(2, 3, 8)) for _ in range(2)]
    with torch.no_grad():
        video = assembled.generate(noise, captions, 3, guidance)
    assert video.shape == (2, *SMALL[name].video((64, 128)))
    assert seen == {part: [4 if guidance else 2] * 3 for part in seen}


def test_all_networks_are_optimised_alike():
    for system in SMALL.values():
        assembled = Assembled(system, (64, 64), torch.device("cpu"))
        optimise(assembled, torch.bfloat16, compiled=False)
        assert {weight.dtype for weight in assembled.parameters()} == {torch.bfloat16}
        convolutions = [module.weight for module in assembled.modules() if isinstance(module, torch.nn.Conv2d)]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--size", "60x64"], "--size 60x64: give multiples of 8"),
        (["--size", "64x72"], "--size 64x72: LTX: 17 frames of 64x72 pixels: .* multiples of 32"),
        (["--size", "wide"], "--size wide: give SIDE or HEIGHTxWIDTH"),
        (["--scale", "huge"], "--scale huge: there is no such scale; give paper, fifth"),
        (["--rounds", "0"], "--rounds 0: give at least 1"),
        (["--json", "-"], "--json -: a call continues from what the last one kept"),
        (["--json", "x.md"], "--json x.md: give a file whose name ends in .json"),
        (["--counts", "--json", "x.md"], "--json x.md: give a file whose name ends in .json"),
        (["--counts", "--json", "/proc/x.json"], "--json /proc/x.json: it cannot be written"),
        (["--counts", "--size", "64x64"], "--counts takes no --size; leave one of them out"),
        (["--counts", "--scale", "fifth"], "--counts takes no --scale; leave one of them out"),
        (["--counts", "--profile"], "--counts takes no --profile; leave one of them out"),
        (["--profile", "--rounds", "2"], "--profile takes no --rounds; leave one of them out"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu' .*"),
        (["--sizes", "64x64"], "unrecognized arguments: --sizes 64x64"),
    ],
)
def test_wrong_options_are_reported(given, message, monkeypatch):
    monkeypatch.setattr("sys.argv", ["efficiency", "--device", "cpu", *given])
    monkeypatch.setattr(program, "count", lambda: pytest.fail("it was counted"))
    with pytest.raises(InputError, match=message):
        program.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_reported(monkeypatch):
    monkeypatch.setattr("sys.argv", ["efficiency"])
    with pytest.raises(InputError, match="--device cuda: torch finds no such device; give cpu"):
        program.main()


@pytest.mark.parametrize(("scale", "file"), [("fifth", "efficiency_fifth_cpu"), ("paper", "efficiency_paper_cpu")])
def test_results_of_each_scale_go_into_a_file_of_their_own(scale, file, monkeypatch):
    def time(settings, path, minutes):
        raise InputError(f"{settings.scale} into {path}")

    monkeypatch.setattr(program, "time", time)
    monkeypatch.setattr("sys.argv", ["efficiency", "--device", "cpu", "--scale", scale])
    with pytest.raises(InputError, match=f"^{scale} into benchmarks/results/{file}.json$"):
        program.main()


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(program.AT, "small", {"batches": (1,), "steps": (1,), "guidance": (False,)})
    path = tmp_path / "out.json"
    options = ["--device", "cpu", "--scale", "small", "--size", "64x64", "--rounds", "1", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["efficiency", *options])
    assert program.main() == 0
    printed = capsys.readouterr().out
    assert printed.endswith("done\n")
    assert path.with_suffix(".md").read_text().strip() in printed
    monkeypatch.setattr("sys.argv", ["efficiency", *options, "--minutes", "-1", "--json", str(tmp_path / "none.json")])
    with pytest.raises(InputError, match="--minutes -1: no cell has been measured; give more"):
        program.main()


def test_profile(capsys, monkeypatch):
    monkeypatch.setitem(program.AT, "small", {"resolutions": ("64x64",)})
    monkeypatch.setattr("sys.argv", ["efficiency", "--profile", "--device", "cpu", "--scale", "small"])
    assert program.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in SMALL]
    assert all(line.count(" %") == timing.TOP for line in lines[2:])
    found = timing.operators(small(), cells(small())[0], "CMD")
    assert sum(one["share"] for one in found) == pytest.approx(1)
    assert {"aten::mkldnn_convolution", "aten::addmm"} <= {one["operator"] for one in found}
