import json

import pytest
import torch
from i3d_reference import hassony2_names, made_weights, reference_scores, reference_trunk

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.i3d import I3D
from cmd_lightning.metrics.preparation import set_batch_norm_eps


@pytest.fixture(scope="module")
def state(assets):
    return made_weights(assets)


def network(state, eps=None):
    i3d = I3D()
    i3d.load_state_dict(state)
    if eps is not None:
        set_batch_norm_eps(i3d, eps)
    return i3d.eval().requires_grad_(False)


def test_layout_is_the_public_one(assets):
    entries = json.loads((assets / "fvd_reference/i3d_state_dict_layout.json").read_text())["entries"]
    layout = {entry["name"]: (entry["shape"], entry["dtype"]) for entry in entries}
    own = {name: (list(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in I3D().state_dict().items()}
    assert own == layout


@pytest.mark.parametrize("size", [(10, 64, 48), (16, 33, 70), (17, 47, 32), (30, 34, 45), (9, 65, 66)])
def test_trunk_is_the_published_architecture(state, size):
    video = torch.rand(1, 3, *size) * 2 - 1
    reference = reference_trunk(state, video.double(), 1e-3)
    assert 0.05 < reference.std() < 20, "weights let something through"
    torch.testing.assert_close(network(state).trunk(video).double(), reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(2, 7, 7), (4, 8, 10)])
def test_class_scores_are_means_over_time_and_space(state, monkeypatch, size):
    there = torch.rand(2, 1024, *size)
    monkeypatch.setattr(I3D, "trunk", lambda self, video: there)
    scores = network(state)(torch.zeros(2, 3, 16, 224, 224))
    torch.testing.assert_close(scores, reference_scores(state, there), atol=1e-5, rtol=1e-4)


def test_epsilon_matters(state):
    video = torch.rand(1, 3, 9, 40, 40)
    a, b = (network(state, eps).trunk(video) for eps in (None, 1e-5))
    assert (a - b).norm() > 1e-2 * a.norm()
    torch.testing.assert_close(b.double(), reference_trunk(state, video.double(), 1e-5), atol=1e-5, rtol=1e-4)


def test_clips_do_not_mix(state):
    video = torch.rand(3, 3, 9, 40, 33)
    i3d = network(state)
    torch.testing.assert_close(i3d.trunk(video)[1:2], i3d.trunk(video[1:2]), atol=1e-5, rtol=1e-4)


def test_both_spellings(assets, state):
    names = hassony2_names(assets)
    ours = network({names[name]: value for name, value in state.items()}).state_dict()
    assert all(ours[name].equal(value) for name, value in state.items())
    counted = {names[name]: value for name, value in I3D().state_dict().items()}
    assert sum(name.endswith("num_batches_tracked") for name in counted) == 57
    network(counted)


def test_other_layouts_are_reported_on_one_line(state):
    name = "Mixed_4c.b1b.conv3d.weight"
    wrong = {
        f"{name} is missing": {key: value for key, value in state.items() if key != name},
        f"{name} is (2, 3), not (224, 112, 3, 3, 3)": state | {name: torch.zeros(2, 3)},
        f"{name} is list": state | {name: [1.0]},
        "fc.weight has no place": state | {"fc.weight": torch.zeros(1)},
        "logits.conv3d.weight is (600, 1024, 1, 1, 1)": state
        | {"logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)},
    }
    for message, weights in wrong.items():
        with pytest.raises(InputError) as error:
            network(weights)
        assert (
            message in str(error.value) and "i3d_pretrained_400.pt" in str(error.value) and "\n" not in str(error.value)
        )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 224, 224), "at least 9"),
        ((1, 3, 16, 224, 192), "192x224 pixels: the I3D needs sides of at least 193"),
        ((1, 1, 16, 224, 224), "grey"),
        ((3, 16, 224, 224), "give"),
    ],
)
def test_clips_it_cannot_read(shape, message):
    with pytest.raises(InputError, match=message):
        I3D()(torch.zeros(shape))
