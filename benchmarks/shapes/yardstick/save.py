"""Measures a trained network of the yardstick, and writes its weights with their record.

python -m benchmarks.shapes.yardstick.save reader
"""

import datetime
from pathlib import Path

import torch

from benchmarks.cells import command_line
from benchmarks.shapes.yardstick.clip import ClipTraining
from benchmarks.shapes.yardstick.features import FeaturesTraining
from benchmarks.shapes.yardstick.reader import ReaderTraining
from benchmarks.shapes.yardstick.training import Training
from cmd_lightning.callbacks.ema import CHECKPOINT_KEY
from cmd_lightning.components.checkpoints import KEY, read
from cmd_lightning.errors import InputError, program
from cmd_lightning.zoo import WEIGHTS

NETWORKS: dict[str, type[Training]] = {"reader": ReaderTraining, "features": FeaturesTraining, "clip": ClipTraining}


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("network", choices=NETWORKS, help="whose config has been run")
    parser.add_argument("--checkpoint", type=Path, help="of the fit (default: outputs/yardstick/NETWORK/last.ckpt)")
    parser.add_argument("--out", type=Path, help="safetensors file (default: the zoo's)")
    options = parser.parse_args()
    path = options.checkpoint or Path("outputs/yardstick", options.network, "last.ckpt")
    hint = f"run `cmd-lightning fit -c benchmarks/shapes/yardstick/{options.network}.yaml --ckpt_path last`"
    checkpoint = read(path, "--checkpoint", hint)
    about, steps = checkpoint[KEY], checkpoint["global_step"]
    training = NETWORKS[options.network]()
    if about["stage"] != training.WEIGHTS:
        raise InputError(f"--checkpoint {path}: it is of {about['stage']}, not of {training.WEIGHTS}; {hint}")
    if steps < about["settings"]["trainer.max_steps"]:
        raise InputError(f"--checkpoint {path}: step {steps} of {about['settings']['trainer.max_steps']}; {hint}")
    training.load_state_dict(checkpoint["state_dict"] | checkpoint[CHECKPOINT_KEY])
    training.eval().requires_grad_(False)
    record = {
        "clips": about["clips"],
        "steps": steps,
        "minutes": round(about["seconds"] / 60, 1),
        "device": about["device"],
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    scores = training.measure()
    training.save(options.out or WEIGHTS / training.WEIGHTS, record | {"scores": scores})
    print("\n".join(f"{name}: {value:.4f}" for name, value in scores.items()))
    return 0


if __name__ == "__main__":
    program(main)
