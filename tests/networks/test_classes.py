import json
import sys

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from cmd_lightning.errors import InputError
from cmd_lightning.networks.classes import build, class_path, describe, load_class
from cmd_lightning.zoo.motion.dit import MotionDiT


def test_trusted_classes_are_imported():
    assert load_class("diffusers.schedulers.scheduling_ddim.DDIMScheduler") is DDIMScheduler
    assert load_class(class_path(DDIMScheduler())) is DDIMScheduler
    assert load_class("cmd_lightning.zoo.motion.dit.MotionDiT") is MotionDiT


def test_other_classes_than_networks_are_rejected():
    for path in ("os.system", "cmd_lightning.diffusion.sampling.seeded_noise", "cmd_lightning.networks.LatentSpec"):
        with pytest.raises(InputError, match="no network or scheduler"):
            load_class(path)


def test_a_third_party_module_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "unknown_package.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as error:
        load_class("unknown_package.Model")
    assert not (tmp_path / "ran").exists()
    assert "unknown_package" not in sys.modules
    assert "unknown_package.Model" in str(error.value)
    assert "import unknown_package" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cmd_lightning_evil.Model", "diffusers2.Model", "Model", "a.cmd_lightning.Model"])
def test_names_that_look_trusted_are_not(name):
    with pytest.raises(InputError, match="not part of cmd_lightning"):
        load_class(name)


def test_an_imported_third_party_class_is_found(tmp_path, monkeypatch):
    (tmp_path / "friend.py").write_text("import torch\nclass Model(torch.nn.Module): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import friend

    try:
        assert load_class("friend.Model") is friend.Model
        with pytest.raises(InputError, match=r"friend has no network or scheduler Muddle"):
            load_class("friend.Muddle")
    finally:
        del sys.modules["friend"]


def test_modules_that_are_gone_are_named():
    with pytest.raises(InputError, match=r"there is no module cmd_lightning\.zoo\.motion\.gone"):
        load_class("cmd_lightning.zoo.motion.gone.Model")


def test_describe_is_plain_data_and_builds_the_same_network(tiny_autoencoder):
    spec = tiny_autoencoder().latent_spec((3, 5, 8, 12))
    network = MotionDiT(spec, 6, width=8, depth=1, heads=2)
    description = json.loads(json.dumps(describe(network)))
    assert description["class_path"] == "cmd_lightning.zoo.motion.dit.MotionDiT"
    again = build(description)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    again.load_state_dict(network.state_dict())
    inputs = (torch.randn(1, *spec.motion), torch.tensor([3]), torch.randn(1, *spec.content))
    condition = describe_condition(6)
    assert torch.equal(again(*inputs, condition), network(*inputs, condition))


def describe_condition(dim):
    from cmd_lightning.networks import Condition

    return Condition(torch.randn(1, dim))


def test_describe_keeps_the_settings_of_diffusers_parts():
    scheduler = DDIMScheduler(beta_end=0.03, prediction_type="v_prediction", timestep_spacing="trailing")
    again = build(json.loads(json.dumps(describe(scheduler))))
    assert torch.equal(again.alphas_cumprod, scheduler.alphas_cumprod)
    assert (again.config.prediction_type, again.config.timestep_spacing) == ("v_prediction", "trailing")
    unet = UNet2DConditionModel(
        (8, 12), 3, 3, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), attention_head_dim=2,
    )  # fmt: skip
    assert describe(build(describe(unet))) == describe(unet)
