"""Predictions of memory and hours: by hand for one layer, and the effect of each setting of a config."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import cmd_lightning
from benchmarks import recipe
from benchmarks.calls import Call
from benchmarks.counting import calls, read
from benchmarks.recipe import PeakMemory, predict, step_memory
from cmd_lightning.networks.classes import build, describe

CONFIGS = Path(cmd_lightning.__path__[0]).parent / "configs"
FLOAT, HALF = 4, 2


@pytest.mark.parametrize("fake", [False, True])
def test_memory_is_that_of_the_tensors_that_live(fake):
    def work():
        a = torch.zeros(1000)
        b = a + 1  # two at once
        del a
        c = b.view(10, 100)[3:] + 1  # a view takes none
        del b
        return c * 2

    memory = PeakMemory()
    with FakeTensorMode() if fake else torch.no_grad(), memory:
        out = work()
    assert (memory.live, memory.peak) == (700 * FLOAT, 2000 * FLOAT)
    del out
    assert memory.live == 0


def test_a_step_of_one_layer_by_hand():
    """Weights, their gradients, Adam's two states and its count; the input that the backward pass needs, in bf16."""
    width, batch = 400, 6
    with torch.device("meta"):
        layer = nn.Linear(width, width, bias=False)
        call = Call(layer, (torch.empty(1, width),))
    peak, after = step_memory(call, batch, checkpointing=False)
    weight = width * width
    kept = 4 * FLOAT * weight + FLOAT  # weight, gradient, two averages; the number of steps
    assert after - kept == FLOAT * batch * width  # the inputs
    copies = HALF * weight  # of autocast
    assert kept - FLOAT * weight + copies <= peak <= kept + 2 * copies + 8 * FLOAT * batch * width


@pytest.mark.slow
def test_real_tensors_take_what_the_prediction_says():
    """The same steps with values, on the process's own tensors."""
    call = calls(read(CONFIGS / "clips64"))["motion"]
    predicted, _ = step_memory(call, 2, checkpointing=False)
    torch.manual_seed(0)
    memory = PeakMemory()
    with memory:
        network = build(describe(call.network)).train()
        inputs = call.inputs_of(lambda tensor: torch.zeros(2, *tensor.shape[1:], dtype=tensor.dtype))
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = call.function(network, *inputs).float().square().mean()
            loss.backward()
            optimizer.step()
            del loss
    assert predicted == pytest.approx(memory.peak, rel=0.05)


def predicted(folder, stage, laid_over):
    configs = read(folder, {stage: laid_over})
    return predict(configs[stage], calls(configs)[stage])


@pytest.fixture
def shallow(tmp_path):
    """Files of few layers by stage, for a small folder: its tensors are gone through quickly."""
    few = {
        "autoencoder": "depth: 1",
        "content": "width: 16",
        "motion": "layers: 1",
    }
    for stage, arguments in few.items():
        (tmp_path / f"{stage}.yaml").write_text(f"model: {{init_args: {{network: {{init_args: {{{arguments}}}}}}}}}")
    return {stage: tmp_path / f"{stage}.yaml" for stage in few}


@pytest.fixture
def changed(tmp_path, shallow):
    """Predicts a stage of a small folder, with lines laid over its config."""

    def run(stage, *lines):
        path = tmp_path / "over.yaml"
        path.write_text("\n".join(lines) + "\n")
        return predicted(CONFIGS / "clips64", stage, [shallow[stage], path])

    return run


@pytest.mark.slow
def test_settings_of_a_config_count(changed):
    plain = changed("motion", "model: {init_args: {}}")
    assert plain.samples == 8000 * 8
    assert plain.ema == FLOAT * plain.trained
    assert plain.validation > (1 + 1 + 2 + 2) * FLOAT * plain.trained  # weights, gradients, Adam, average and copy
    assert plain.hours(tflops=2 * plain.teraflop) == pytest.approx(plain.samples / 2 / 3600)
    more = changed("motion", "trainer: {accumulate_grad_batches: 3}", "data: {init_args: {batch_size: 16}}")
    assert more.samples == 8000 * 16 * 3
    assert more.step > 1.3 * plain.step
    again = changed(
        "motion", "model: {init_args: {gradient_checkpointing: true}}", "data: {init_args: {batch_size: 16}}"
    )
    assert again.teraflop == pytest.approx(4 / 3 * plain.teraflop)
    assert again.step < more.step
    assert changed("motion", "trainer: {callbacks: []}").ema == 0


@pytest.mark.slow
def test_adapters_alone_learn(monkeypatch, tmp_path):
    """Of a small U-Net in the place of Stable Diffusion's."""
    unet = tmp_path / "small.yaml"
    unet.write_text(
        "model: {init_args: {lora: {rank: 2}, network: {init_args: "
        "{block_out_channels: [32, 64], layers_per_block: 1, attention_head_dim: 4}}}}"
    )
    whole = tmp_path / "whole.yaml"
    whole.write_text("model: {init_args: {lora: null}}")
    folder = CONFIGS / "openvid256"
    adapted = predicted(folder, "content", [unet])
    full = predicted(folder, "content", [unet, whole])
    assert adapted.trained < 0.1 * full.trained
    assert adapted.teraflop == pytest.approx(3 / 4 * full.teraflop)  # with checkpointing: 3 passes, not 4
    assert adapted.validation < full.validation / 3


def test_command_line(capsys, monkeypatch, shallow):
    over = [word for stage, path in shallow.items() for word in ("-o", f"{stage}={path}")]
    monkeypatch.setattr("sys.argv", ["recipe", str(CONFIGS / "clips64"), "--tflops", "0.01", *over])
    assert recipe.main() == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(" | ")[0] for line in lines[-3:]] == ["| autoencoder", "| content", "| motion"]
