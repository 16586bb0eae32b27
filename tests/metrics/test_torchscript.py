import io
import warnings
import zipfile

import pytest
import torch
from crafted import DISGUISES, crafted
from torch import nn

from cmd_lightning.metrics.torchscript import is_torchscript, load_torchscript


@pytest.mark.parametrize("disguise", DISGUISES)
def test_only_constants_in_the_root_and_code_are_torchscript(disguise, tmp_path):
    assert is_torchscript(crafted(tmp_path, disguise)) == (disguise == "code")


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_torchscript_is_known_and_opened(kind, tmp_path):
    network = nn.Linear(2, 3)
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.script(network) if kind == "script" else torch.jit.trace(network, torch.zeros(1, 2))
        torch.jit.save(script, tmp_path / "script.pt")
    with warnings.catch_warnings(action="error"):
        for file in (tmp_path / "script.pt", io.BytesIO((tmp_path / "script.pt").read_bytes())):
            assert is_torchscript(file)
            assert load_torchscript(tmp_path / "script.pt").weight.equal(network.weight)


def test_other_files_are_none(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "new.pt")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    (tmp_path / "nothing.pt").touch()
    half = (tmp_path / "new.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(half[: len(half) // 2])
    for path in tmp_path.iterdir():
        assert not is_torchscript(path), path.name
