import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmd_lightning.compat import own_precision
from cmd_lightning.metrics.kernel import KernelVideoDistance
from cmd_lightning.metrics.precision import Frozen, single_precision
from cmd_lightning.metrics.transformers_features import TransformersFeatures
from cmd_lightning.shapes.features import ShapesFeatures

UNITS = (
    torch.backends.cudnn.conv,
    torch.backends.cuda.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.matmul,
)


def flags():
    return [unit.fp32_precision for unit in UNITS]


class Probe(nn.Module):
    """Everything that surroundings can change; remembers under which precision it ran."""

    num_features, published = 3, False

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.linear = nn.BatchNorm3d(3), nn.Dropout(0.5), nn.Linear(3, 3)
        self.register_buffer("shift", torch.tensor(0.1))
        self.name, self.origin = "probe", {"weights": "none"}

    def forward(self, video):
        self.seen = flags()
        return self.linear(self.drop(self.norm(video)).mean((2, 3, 4))) + self.shift

    def twice(self, x):
        return 2 * self.linear(x)


@pytest.fixture
def frozen():
    return Frozen(Probe())


@pytest.fixture
def video():
    return torch.rand(2, 3, 4, 6, 5)


def by_hand(probe, video):
    norm = probe.norm
    means = (video.mean((2, 3, 4)) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return F.linear(means * norm.weight + norm.bias, probe.linear.weight, probe.linear.bias) + 0.1


CASTS = {
    "half": nn.Module.half,
    "bfloat16": nn.Module.bfloat16,
    "double": nn.Module.double,
    "to": lambda module: module.to(torch.bfloat16),
}


@pytest.mark.parametrize("cast", CASTS)
def test_value_within_a_module_that_is_cast_and_trained(frozen, video, cast):
    before = frozen(video)
    torch.testing.assert_close(before, by_hand(frozen, video))
    module = CASTS[cast](nn.Sequential(frozen, nn.Linear(3, 3))).train()
    assert module[1].weight.dtype != torch.float32 and module[1].training
    assert frozen(video).equal(before) and frozen(video).equal(before), "neither noise nor running means"
    assert not any(part.training for part in frozen.modules())


def test_value_under_autocast(frozen, video):
    before = frozen(video)
    with torch.autocast("cpu", torch.bfloat16):
        assert frozen.linear(torch.ones(1, 3)).dtype == torch.bfloat16
        assert frozen(video).equal(before)


def test_it_moves_all_the_same(frozen):
    nn.Sequential(frozen).to("meta", torch.bfloat16)
    assert {(x.device.type, x.dtype) for x in frozen.parameters()} == {("meta", torch.float32)}
    assert (frozen.shift.device.type, frozen.shift.dtype) == ("meta", torch.float32)


def test_clips_get_the_precision_of_the_network(video):
    assert Frozen(Probe().double())(video).dtype == torch.float64
    assert Frozen(nn.Identity())(video.half()).dtype == torch.float16, "none without parameters"


def test_no_gradients(frozen, video):
    assert not frozen(video.requires_grad_()).requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.fixture
def set_flags():
    """Sets the precision of the processors; afterwards they are as before."""

    def put(precisions):
        for unit, precision in zip(UNITS, precisions, strict=True):
            unit.fp32_precision = precision

    before = flags()
    yield put
    put(before)


def test_precision_of_the_processors_is_put_back(frozen, video, set_flags):
    before = ["tf32", "tf32", "tf32", "bf16"]
    set_flags(before)
    frozen(video)
    assert frozen.seen == ["ieee"] * 4 and flags() == before
    with pytest.raises(KeyError), single_precision(video.device):
        assert flags() == ["ieee"] * 4
        raise KeyError
    assert flags() == before


def test_attributes_are_those_of_the_network(frozen):
    assert (frozen.num_features, frozen.name, frozen.published) == (3, "probe", False)
    assert frozen.origin is frozen.network.origin and frozen.norm is frozen.network.norm
    assert frozen.twice(torch.zeros(1, 3)).equal(2 * frozen.linear.bias[None])
    assert not hasattr(frozen, "absent")
    with pytest.raises(AttributeError, match="absent"):
        _ = frozen.absent


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(frozen, video, again):
    other = again(frozen)
    assert type(other) is Frozen and other(video).equal(frozen(video)) and other.name == "probe"
    assert not hasattr(Frozen.__new__(Frozen), "network"), "nor does it look for it without end"


def test_own_precision_moves_and_casts_not():
    move = own_precision(lambda x: x.to("meta", torch.bfloat16))
    for dtype in (torch.float64, torch.float32, torch.long):
        moved = move(torch.zeros(2, dtype=dtype))
        assert (moved.dtype, moved.device.type) == (dtype, "meta")
    kept = torch.zeros(2)
    assert own_precision(lambda x: x)(kept) is kept


@pytest.fixture
def videomae(tmp_path, wake):
    from transformers import VideoMAEConfig, VideoMAEModel

    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    wake(VideoMAEModel(VideoMAEConfig(image_size=32, num_frames=8, **sizes))).save_pretrained(tmp_path)
    return TransformersFeatures(str(tmp_path))


@pytest.mark.parametrize("network", ["shapes", "videomae"])
def test_a_distance_within_a_module_that_is_cast(network, request):
    network = ShapesFeatures.from_pretrained() if network == "shapes" else request.getfixturevalue("videomae")
    real, fake = torch.rand(4, 3, 8, 32, 32), torch.rand(3, 3, 8, 32, 32) ** 2
    values = []
    for cast in (False, True):
        module = nn.ModuleList([KernelVideoDistance(copy.deepcopy(network))])
        if cast:
            module.to(torch.bfloat16)
        with warnings.catch_warnings(action="ignore"), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            module[0].update(real, real=True)
            module[0].update(fake, real=False)
            values.append(module[0].compute().item())
    assert values[0] == values[1] and values[0] > 0


def test_torchscript_can_be_frozen():
    probe = Probe().eval()
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.trace(
            nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), probe.linear), torch.rand(1, 3, 4, 6, 5)
        )
    frozen, video = copy.deepcopy(Frozen(script)), torch.rand(2, 3, 4, 6, 5)
    assert isinstance(frozen, Frozen)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    torch.testing.assert_close(frozen(video), probe.linear(video.mean((2, 3, 4))).detach())
