"""Lightning's `load_from_checkpoint` without arguments, `Tuner.lr_find`, and options changed at a resume."""

import copy
import math

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner
from small_fits import CASES, Clips, adam, component, together
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader

from cmd_lightning.components import ContentDiffusion, MotionDiffusion, VideoAutoencoder
from cmd_lightning.components.resumed_options import apply_changes, options_of
from cmd_lightning.components.schedules import WarmupSchedule
from cmd_lightning.diffusion import Diffusion
from cmd_lightning.diffusion.objectives import FlowMatching
from cmd_lightning.errors import InputError

CLASSES = {"autoencoder": VideoAutoencoder, "content": ContentDiffusion, "motion": MotionDiffusion}


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", default_root_dir=folder, **quiet | {"max_steps": 1} | options)


def loader():
    return DataLoader(Clips(4), batch_size=2, collate_fn=together)


def batch():
    return next(iter(loader()))


@pytest.mark.parametrize("case", ["autoencoder", "content DiT, classes", "motion DiT, captions"])
def test_every_component_comes_back_without_arguments(tmp_path, case):
    options = {"autoencoder": {"loss": "l1"}}.get(case, {"objective": Diffusion("v_prediction", min_snr_gamma=5.0)})
    made = component(case, optimizer=adam, pixels=True, **options)
    fit = trainer(tmp_path, enable_checkpointing=False)
    fit.fit(made, loader())
    fit.save_checkpoint(tmp_path / "made.ckpt")
    opened = CLASSES[CASES[case][0]].load_from_checkpoint(tmp_path / "made.ckpt")
    assert (opened.video_shape, opened.fps, opened.trained_on) == (made.video_shape, made.fps, made.trained_on)
    assert opened.state_dict().keys() == made.state_dict().keys()
    assert all(torch.equal(weight, made.state_dict()[name]) for name, weight in opened.state_dict().items())
    assert {n for n, w in opened.named_parameters() if w.requires_grad} == {
        n for n, w in made.named_parameters() if w.requires_grad
    }
    if case == "autoencoder":
        assert opened.loss == "l1"
    else:
        assert opened.condition_dropout == 0.5
        assert opened.objective.prediction == "v_prediction" and opened.objective.min_snr_gamma == 5.0
    losses = [trainer(tmp_path).validate(model, loader(), verbose=False)[0] for model in (made, opened)]
    assert losses[0] == losses[1]
    trainer(tmp_path, enable_checkpointing=False).fit(opened, loader())  # it learns on
    assert any(not torch.equal(weight, made.state_dict()[name]) for name, weight in opened.state_dict().items())


def test_an_autoencoder_from_a_file_is_found_again_and_must_be_the_same(tiny_stages, save_checkpoint, tmp_path):
    paths, components = tiny_stages("caption")
    network = components["motion"].network
    made = MotionDiffusion(lambda *_: network, str(paths["autoencoder"]), objective=FlowMatching(shift=3.0))
    path = save_checkpoint(made, tmp_path / "own.ckpt")
    opened = MotionDiffusion.load_from_checkpoint(path)
    assert opened.trained_on == made.trained_on and opened.objective.shift == 3.0
    other = copy.deepcopy(components["autoencoder"].network)
    torch.nn.init.normal_(next(other.parameters()))
    with pytest.raises(InputError, match="another autoencoder"):
        MotionDiffusion.load_from_checkpoint(path, autoencoder=other)
    with pytest.raises(InputError, match="holds the motion stage, not content"):
        ContentDiffusion.load_from_checkpoint(path)


@pytest.mark.parametrize("case", ["autoencoder", "motion DiT, captions"])
def test_lr_find_finds_a_learning_rate_and_sets_it(tmp_path, case):
    made = component(case, optimizer=adam, pixels=True, schedule=lambda o: WarmupSchedule(o, warmup_steps=50))
    found = Tuner(trainer(tmp_path, max_steps=100)).lr_find(
        made, DataLoader(Clips(16), batch_size=2, collate_fn=together), num_training=30, early_stop_threshold=None
    )
    assert 1e-8 < found.suggestion() < 1
    assert made.lr == found.suggestion()
    assert not list(tmp_path.glob("*.ckpt"))
    again = made.configure_optimizers()["optimizer"]
    assert again.param_groups[0]["initial_lr"] == found.suggestion()


def optimizer(kind=torch.optim.Adam, **options):
    torch.manual_seed(0)
    return kind([torch.nn.Parameter(torch.ones(2))], **options)


def train(made, schedule, steps):
    for _ in range(steps):
        made.param_groups[0]["params"][0].grad = torch.ones(2)
        made.step()
        schedule.step()


SCHEDULES = {
    "warm-up": (lambda made: WarmupSchedule(made, warmup_steps=9), lambda step: (step + 1) / 10),
    "cosine": (
        lambda made: WarmupSchedule(made, total_steps=8, decay="cosine"),
        lambda step: 0.5 * (1 + math.cos(math.pi * step / 8)),
    ),
    "exponential": (lambda made: ExponentialLR(made, 0.5), lambda step: 0.5**step),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_changed_learning_rate_holds_from_the_resume_on_at_its_place_in_the_schedule(name):
    build, formula = SCHEDULES[name]
    first = optimizer(lr=1e-3)
    schedule = build(first)
    train(first, schedule, 3)
    again = optimizer(lr=1e-5)
    resumed = build(again)
    wanted = options_of(again)
    again.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    [message] = apply_changes(again, wanted, [resumed])
    assert message.startswith("model.optimizer.lr 1e-05: the checkpoint was trained with 0.001; the new value is used")
    for step in (3, 4, 5):
        assert again.param_groups[0]["lr"] == pytest.approx(1e-5 * formula(step), rel=1e-12)
        train(again, resumed, 1)


@pytest.mark.parametrize(
    ("kind", "before", "now"),
    [
        (torch.optim.AdamW, {"lr": 1e-3}, {"lr": 1e-3, "weight_decay": 0.3}),
        (torch.optim.Adam, {"lr": 1e-3}, {"lr": 1e-3, "betas": (0.5, 0.9), "eps": 1e-5}),
        (torch.optim.SGD, {"lr": 1e-3}, {"lr": 1e-2, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 1e-3}, {"lr": 1e-3, "fused": True}),
        (torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.99)}, {"lr": 1e-3, "betas": [0.9, 0.99]}),
    ],
)
def test_other_options_hold_too_and_each_is_reported(kind, before, now):
    first = optimizer(kind, **before)
    train(first, ExponentialLR(first, 1.0), 2)
    again = optimizer(kind, **now)
    wanted = options_of(again)
    again.load_state_dict(first.state_dict())
    message = apply_changes(again, wanted)
    changed = {n for n in now if n != "fused" and list(map(str, [now[n]])) != list(map(str, [before.get(n)]))}
    changed = {name for name in changed if name != "betas" or tuple(now[name]) != (0.9, 0.99)}
    assert {line.split()[0] for line in message} == {f"model.optimizer.{name}" for name in changed}
    for name in changed:
        assert again.param_groups[0][name] == now[name]
    train(again, ExponentialLR(again, 1.0), 1)


def test_what_the_state_depends_on_stays_and_is_reported():
    first = optimizer(lr=1e-3)
    train(first, ExponentialLR(first, 1.0), 1)
    again = optimizer(lr=1e-3, amsgrad=True)
    wanted = options_of(again)
    again.load_state_dict(first.state_dict())
    [message] = apply_changes(again, wanted)
    assert "amsgrad True" in message and "is kept" in message
    train(again, ExponentialLR(again, 1.0), 1)
