"""The metrics in an environment of four packages, those of docs/get-started.md, and what these need themselves."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
sys.path[:0] = [{root!r}, {site!r}]
import open_clip, torch
from torch import nn
from torchmetrics.image import PeakSignalNoiseRatio
from cmd_lightning.metrics import CLIPSimilarity, FrechetVideoDistance, KernelVideoDistance, PerFrame
from cmd_lightning.metrics import load_statistics, save_statistics

torch.manual_seed(0)
real, fake = torch.rand(12, 3, 4, 16, 16), torch.rand(12, 3, 4, 16, 16)
weights = {folder!r} + "/tiny.pt"
torch.save(nn.Linear(12, 5).state_dict(), weights)
features = nn.Sequential(nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten(), nn.Linear(12, 5))
features[2].load_state_dict(torch.load(weights, weights_only=True))
values = {{}}
for name, kind in (("fvd", FrechetVideoDistance), ("kvd", KernelVideoDistance)):
    metric = kind(features)
    metric.update(real, real=True)
    saved = {folder!r} + f"/{{name}}.safetensors"
    save_statistics(saved, {{name: metric}}, {{}})
    metric = kind(features)
    load_statistics(saved, {{name: metric}}, {{}})
    metric.update(fake, real=False)
    values[name] = metric.compute().item()
open_clip.add_model_config({folder!r} + "/small.json")
torch.save(open_clip.create_model("small").state_dict(), weights)
clipsim = CLIPSimilarity("small", pretrained=weights)
clipsim.update(fake, ["a red circle moves left"] * 12)
values["clipsim"] = clipsim.compute().item()
psnr = PerFrame(PeakSignalNoiseRatio(data_range=1.0))
psnr.update(fake, real)
values["psnr"] = psnr.compute().item()
values["formula"] = (10 * torch.log10(1 / (fake - real).square().mean())).item()
values["loaded"] = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps(values))
"""
CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def with_needs(names):
    """Distributions and, as pip would install them here, all that they need."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name.lower() in found:
            continue
        try:
            found[name.lower()] = distribution(name)
        except PackageNotFoundError:  # of a system library, where torch is a build for CPUs
            continue
        needs = map(Requirement, found[name.lower()].requires or ())
        waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found.values()


@pytest.fixture
def site(tmp_path):
    """A folder of packages with those of docs/get-started.md alone."""
    (line,) = re.findall(r"pip install (.*)  # the metrics alone", (ROOT / "docs/get-started.md").read_text())
    names = line.split()
    assert len(names) == 4
    folder = tmp_path / "site"
    folder.mkdir()
    for package in with_needs(names):
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(package.locate_file(top)).resolve())
    return folder


def test_four_packages_are_enough(site, tmp_path):
    assert not {"lightning", "diffusers", "av", "jsonargparse", "webdataset"} & {path.name for path in site.iterdir()}
    (tmp_path / "small.json").write_text(json.dumps(CLIP))
    script = SCRIPT.format(root=str(ROOT), site=str(site), folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    values = json.loads(run.stdout.splitlines()[-1])
    assert values["fvd"] > 0
    assert -1 < values["clipsim"] < 1
    assert values["psnr"] == pytest.approx(values["formula"], abs=0.05)
    assert "torch" in values["loaded"]
    assert not {"lightning", "diffusers", "av", "transformers"} & set(values["loaded"])
