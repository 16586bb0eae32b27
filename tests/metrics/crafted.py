"""Archives of weights that create a file named "trapped" where they are unpickled, disguised as TorchScript or not."""

import pickle
import zipfile
from pathlib import Path

import torch


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("trapped"),)


DISGUISES = {
    "plain": [],
    "constants deeper": ["trap/x/constants.pkl"],
    "constants deeper than code": ["trap/x/constants.pkl", "trap/code/__torch__.py"],
    "no code": ["trap/constants.pkl"],
    "code": ["trap/constants.pkl", "trap/code/__torch__.py"],
}


def crafted(folder, disguise):
    """Writes trap.pt, which torch.save and the zip format agree upon."""
    torch.save({"weight": Trap()}, folder / "trap.pt")
    with zipfile.ZipFile(folder / "trap.pt", "a") as archive:
        for name in DISGUISES[disguise]:
            archive.writestr(name, pickle.dumps(Trap()) if name.endswith("pkl") else b"x = 1\n")
    return folder / "trap.pt"
