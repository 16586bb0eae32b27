import json
import subprocess
import urllib.error
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from crafted import DISGUISES, crafted
from i3d_reference import hassony2_names, made_weights, reference_i3d
from safetensors.torch import save_file
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.metrics import i3d_weights
from cmd_lightning.metrics.i3d import I3D
from cmd_lightning.metrics.i3d_weights import PUBLIC, PUBLISHED, git_blob_id, open_i3d
from cmd_lightning.metrics.precision import Frozen
from cmd_lightning.metrics.preparation import PRESETS, Preparation, prepare

TF = PRESETS["tf"]
KEEP = Preparation("keep", resize="none", batch_norm_eps=None)


class Detector(nn.Module):
    """With the signature of StyleGAN-V's TorchScript."""

    def __init__(self, i3d):
        super().__init__()
        self.i3d = i3d

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        x = x / 255 * 2 - 1 if rescale or resize else x
        scores = self.i3d(x)
        return scores if return_features else scores.softmax(1)


class Maps(nn.Module):
    """A detector that gives no vectors."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return x[:, :, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of weights of the public layout: plain.pt and script.pt, the same."""
    torch.manual_seed(0)
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def plain(folder):
    torch.save(I3D().state_dict(), folder / "plain.pt")
    return folder / "plain.pt"


@pytest.fixture(scope="module")
def made(folder, assets):
    """Weights that let something through, as state dict, its file, and as TorchScript."""
    state = made_weights(assets)
    torch.save(state, folder / "made.pt")
    i3d = I3D()
    i3d.load_state_dict(state)
    with warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(i3d.eval(), torch.zeros(1, 3, 9, 193, 193), check_trace=False)
        torch.jit.save(torch.jit.script(Detector(traced)), folder / "script.pt")
    return state, folder / "made.pt", folder / "script.pt"


@pytest.fixture
def known(monkeypatch):
    """Makes a file one of the public ones."""

    def make(path, index):
        names, blobs = list(PUBLISHED), list(PUBLIC)
        blob = git_blob_id(Path(path).read_bytes())
        monkeypatch.setitem(PUBLIC, blob, PUBLIC[blobs[index]])
        if index < len(names):
            monkeypatch.setitem(PUBLISHED, names[index], blob)

    return make


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder in place of torch.hub's, and no CMD_I3D_WEIGHTS."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("CMD_I3D_WEIGHTS", raising=False)
    return tmp_path / "hub" / "checkpoints"


def refused(*args, **settings):
    with pytest.raises(InputError) as error:
        open_i3d(*args, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.filterwarnings("ignore:weights .*")
@pytest.mark.parametrize(
    "preset", ["tf", *(pytest.param(name, marks=pytest.mark.slow) for name in PRESETS if name != "tf")]
)
def test_features_of_each_lineage(made, preset):
    state, file, script = made
    preparation = Preparation.parse(f"{preset},side=193")  # the smallest there is
    video = torch.rand(1, 3, 9, 50, 72)
    features = open_i3d(file, preparation)(video)
    eps = 1e-5 if preset == "videogpt" else 1e-3
    reference = reference_i3d(state, prepare(video, preparation), eps)
    torch.testing.assert_close(features, reference, atol=1e-4, rtol=1e-3)
    opened = open_i3d(script, preparation, trust_torchscript=True)
    torch.testing.assert_close(opened(video), features, atol=1e-5, rtol=1e-4)
    assert opened.num_features == 400 and not opened.published


@pytest.mark.filterwarnings("ignore:weights .*")
def test_epsilon_reaches_the_network(made):
    names = ("stylegan-v", "videogpt")
    shifted = [open_i3d(made[2], PRESETS[name], trust_torchscript=True).state_dict().values() for name in names]
    assert [open_i3d(made[1], PRESETS[name]).network.network.Mixed_4c.b1b.bn.eps for name in names] == [1e-3, 1e-5]
    moves = {f"{(b - a).mean():.3e}" for a, b in zip(*shifted, strict=True) if not a.equal(b)}
    assert moves == {"-9.900e-04"}


def test_torchscript_is_not_run_unless_trusted_or_known(made, known, monkeypatch):
    _, _, script = made
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("opened"))
        assert "trust_torchscript=True" in refused(script, TF)
    known(script, 1)
    with warnings.catch_warnings(action="error", category=UserWarning):
        opened = open_i3d(script, TF)
    assert opened.published and opened.name == "i3d" and opened.origin["what"] == "published: StyleGAN-V torchscript"


def test_a_torchscript_of_maps_is_rejected(folder):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(Maps()), folder / "maps.pt")
        opened = open_i3d(folder / "maps.pt", KEEP, trust_torchscript=True)
        with pytest.raises(InputError, match=r"gave \(1, 3, 200, 230\) of 230x200 pixels.*side=224"):
            opened(torch.zeros(1, 3, 9, 200, 230))
        with pytest.raises(InputError, match="at least 9"):
            opened(torch.zeros(1, 3, 8, 224, 224))


def test_unknown_weights_are_called_so(plain):
    with pytest.warns(UserWarning, match="are no published FVD") as caught:
        opened = open_i3d(plain, TF)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    sha256 = subprocess.run(["sha256sum", plain], capture_output=True, text=True, check=True).stdout.split()[0]
    assert opened.published is False and opened.name == f"i3d (unpublished weights {sha256[:8]})"
    origin = json.loads(json.dumps(opened.origin))
    assert origin.pop("warning") == str(caught[0].message)
    blob = git_blob_id(plain.read_bytes())
    expected = {
        "weights": "plain.pt",
        "sha256": sha256,
        "git_blob": blob,
        "what": "of unknown origin",
        "protocol": asdict(TF),
    }
    assert origin == expected


def test_known_weights_are_those_of_published_fvd(plain, known):
    known(plain, 0)
    with warnings.catch_warnings(action="error", category=UserWarning):
        opened = open_i3d(plain, TF)
    assert opened.published is True and opened.name == "i3d" and "warning" not in opened.origin
    assert isinstance(opened, Frozen), "steady whatever surrounds it"
    assert opened.origin["what"] == "published: Kinetics-only I3D of FVD (VideoGPT/TATS)"


def test_weights_that_began_with_imagenet_are_not_those_of_fvd(plain, known):
    known(plain, 2)
    with pytest.warns(UserWarning, match="not the detector of published FVD"):
        opened = open_i3d(plain, TF)
    assert not opened.published and opened.name == "i3d (ImageNet+Kinetics)" and "piergiaj" in opened.origin["warning"]


def test_known_ids_are_the_published_ones(assets):
    ids = json.loads((assets / "fvd_reference/published_values.json").read_text())
    ids = {blob: text for text, blob in ids["git_blob_ids_of_weight_files_not_included"].items() if text != "how"}
    assert set(ids) == set(PUBLIC)
    assert ids[PUBLISHED["i3d"]].startswith("i3d_pretrained_400.pt")
    assert ids[PUBLISHED["i3d-torchscript"]].startswith("i3d_torchscript.pt")
    for blob, author in zip(list(PUBLIC)[2:], ("piergiaj", "hassony2"), strict=True):
        assert author in ids[blob] and author in PUBLIC[blob].what


def test_git_blob_id(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) + b"\r\n\0")
    run = subprocess.run(["git", "hash-object", "--no-filters", tmp_path / "file"], capture_output=True, text=True)
    assert git_blob_id((tmp_path / "file").read_bytes()) == run.stdout.strip()


@pytest.mark.filterwarnings("ignore:weights .*")
def test_files_of_all_kinds(plain, tmp_path, assets):
    state, names = torch.load(plain), hassony2_names(assets)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({names[name]: value for name, value in state.items()}, tmp_path / "model_rgb.pth")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "weights.safetensors")
    for name in ("wrapped.pth", "model_rgb.pth", "old.bin", "weights.safetensors"):
        loaded = open_i3d(str(tmp_path / name), KEEP).network.network.state_dict()
        assert all(loaded[key].equal(value) for key, value in state.items()), name


def test_other_files_are_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.pt").write_text("<html>404</html>\n\n")
    torch.save([1], tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "empty.pt").touch()
    printed = {
        "page.pt": "cannot be opened",
        "list.pt": "holds a list",
        "other.pt": "Conv3d_1a_7x7.conv3d.weight is missing",
        "empty.pt": "cannot be opened",
        "absent.pt": "there is no such file",
    }
    for name, text in printed.items():
        message = refused(name, TF)
        assert text in message and name in message


@pytest.mark.parametrize("disguise", DISGUISES)
def test_no_file_runs_code(disguise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = crafted(tmp_path, disguise)
    untrusted = "open_feature(..., trust_torchscript=True)" if disguise == "code" else "cannot be opened"
    with warnings.catch_warnings(action="ignore"):
        assert untrusted in refused(path, TF)
        assert "cannot be opened (" in refused(path, TF, trust_torchscript=True)
    assert not Path("trapped").exists()
    torch.load(crafted(tmp_path, "plain"), weights_only=False)
    assert Path("trapped").exists(), "as it would have been"


@pytest.mark.filterwarnings("ignore:weights .*")
def test_where_a_name_is_looked_up(plain, hub, known, monkeypatch):
    monkeypatch.setenv("CMD_I3D_WEIGHTS", str(plain))
    assert open_i3d("i3d", TF).origin["weights"] == "plain.pt"
    monkeypatch.setenv("CMD_I3D_WEIGHTS", str(plain.parent / "absent.pt"))
    assert "absent.pt" in refused("i3d", TF)
    monkeypatch.delenv("CMD_I3D_WEIGHTS")
    fetched, read = [], []
    hashed = git_blob_id
    monkeypatch.setattr(i3d_weights, "git_blob_id", lambda data: read.append(data) or hashed(data))

    def download(url, file):
        fetched.append(url)
        Path(file).write_bytes(plain.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    message = refused("i3d", TF)
    assert "another file than the published one" in message and "CMD_I3D_WEIGHTS" in message
    assert not list(hub.iterdir()), "a wrong download is not kept"
    known(plain, 0)
    for _ in range(2):
        opened = open_i3d("i3d", TF)
        assert opened.published and opened.origin["weights"] == "i3d_pretrained_400.pt"
    assert len(read) == len(fetched) + 1, "each file is read and hashed once"
    assert len(fetched) == 2 and "i3d_pretrained_400.pt" in fetched[0], "the second time it is there"
    (hub / "i3d_pretrained_400.pt").write_bytes(b"half")
    assert "another file" in refused("i3d", TF)
    assert (hub / "i3d_pretrained_400.pt").exists()


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_network(name, hub, monkeypatch):
    def download(url, file):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    message = refused(name, TF)
    public = PUBLIC[PUBLISHED[name]]
    assert public.url in message and public.file in message and "CMD_I3D_WEIGHTS" in message
