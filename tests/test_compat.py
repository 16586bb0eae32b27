"""Each test shows a fault or a private part of a library; when it fails, the workaround can be removed."""

import inspect
import io
import os
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import accelerate
import av
import pytest
import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.quantizers import PipelineQuantizationConfig
from diffusers.quantizers.quantization_config import QuantoConfig
from jsonargparse import ArgumentError, ArgumentParser
from lightning import Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import Metric, SumMetric
from torchmetrics.image import fid
from transformers import PreTrainedModel

from cmd_lightning import compat
from cmd_lightning.commands.config_errors import first_match
from cmd_lightning.video_encoding import mp4_bytes


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**quiet | {"default_root_dir": folder, "limit_val_batches": 0, "devices": 1} | options)


def public(thing):
    return [name for name in dir(thing) if not name.startswith("_")]


# Lightning


def test_fused_optimisers_are_marked_privately_and_not_clipped():
    weight = nn.Parameter(torch.zeros(2))
    plain, fused = torch.optim.AdamW([weight]), torch.optim.AdamW([weight], fused=True)
    assert not compat.is_fused(plain) and compat.is_fused(fused)
    assert not any("scaling" in name for name in public(fused))
    precision = MixedPrecision("bf16-mixed", "cpu")  # without a scaler
    assert precision.scaler is None
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        precision.clip_gradients(fused, 1.0)
    compat.allow_clipping(fused)
    precision.clip_gradients(fused, 1.0)


class Epochs(Callback):
    """Counts of epochs at the start of each batch: begun and completed."""

    def __init__(self, path=None):
        self.counts, self.path = [], path

    def on_train_batch_start(self, trainer, *_):
        current = trainer.fit_loop.epoch_progress.current
        self.counts.append((current.ready, current.completed))

    def on_train_batch_end(self, trainer, *_):
        if self.path and trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def test_an_epoch_that_begins_after_a_resume_is_not_counted(tmp_path):
    path = tmp_path / "end_of_epoch.ckpt"
    whole, resumed = Epochs(path), Epochs()
    options = {"limit_train_batches": 2, "max_steps": 4, "enable_checkpointing": False}
    trainer(tmp_path, callbacks=[whole], **options).fit(BoringModel())
    run = trainer(tmp_path, callbacks=[resumed], **options)
    run.fit(BoringModel(), ckpt_path=path, weights_only=True)
    assert whole.counts == [(1, 0), (1, 0), (2, 1), (2, 1)]
    assert resumed.counts == [(1, 1), (1, 1)]


def test_an_epoch_begins_as_one_more_batch_of_the_last_after_a_resume(tmp_path):
    class Batches(Callback):
        seen = ()

        def on_train_batch_start(self, trainer, module, batch, number):
            self.seen += ((trainer.current_epoch, number),)

    def batches(path=None, **steps):
        seen = Batches()
        run = trainer(tmp_path, callbacks=[seen], limit_train_batches=2, enable_checkpointing=False, **steps)
        run.fit(BoringModel(), ckpt_path=path, weights_only=True)
        run.save_checkpoint(tmp_path / "end_of_epoch.ckpt")
        return seen.seen

    assert batches(max_steps=2) == ((0, 0), (0, 1))
    assert batches(tmp_path / "end_of_epoch.ckpt", max_steps=5) == ((1, 2), (2, 0), (2, 1))


def test_the_cluster_environment_is_private(tmp_path):
    run = trainer(tmp_path)
    assert isinstance(run.strategy, SingleDeviceStrategy)
    assert compat.cluster_environment(run).__class__.__name__ == "LightningEnvironment"
    environments = [name for name in [*public(run), *public(run.strategy)] if "environment" in name]
    assert set(environments) <= {"setup_environment"}


def test_auto_is_a_shard_a_node(monkeypatch):
    def parts(processes=None):
        strategy = ModelParallelStrategy("auto", 1)
        strategy.parallel_devices, strategy.num_nodes = [torch.device("cpu")] * 4, 2
        strategy._lightning_module, strategy.accelerator = BoringModel(), SimpleNamespace(setup_device=lambda _: None)
        if processes:
            compat.shard_over(strategy, processes)
        strategy.setup_environment()
        return strategy.device_mesh

    module = "lightning.pytorch.strategies.model_parallel"
    monkeypatch.setattr(f"{module}.ModelParallelStrategy._setup_distributed", lambda _: None)
    monkeypatch.setattr(f"{module}._setup_device_mesh", lambda data, tensor, *_: (data, tensor))
    monkeypatch.setattr(f"{module}.ModelParallelStrategy.root_device", torch.device("cpu"))
    assert parts() == (2, 1)
    assert parts(8) == (8, 1)


def test_what_a_strategy_was_given_is_private():
    pieces, whole = (ModelParallelStrategy(save_distributed_checkpoint=value) for value in (True, False))
    assert compat.writes_pieces(pieces) and not compat.writes_pieces(whole)
    assert not {"data_parallel_size", "save_distributed_checkpoint"} & {*public(pieces)}


def test_options_come_from_a_checkpoint(tmp_path):
    path = tmp_path / "own.ckpt"
    torch.save({"hyper_parameters": {"_class_path": "subprocess.Popen", "args": "true"}}, path)

    def asked(kind):
        cli, taken = object.__new__(kind), []
        cli.config = type("Config", (dict,), {"subcommand": "fit"})(subcommand="fit", fit={"ckpt_path": str(path)})
        cli.parser = SimpleNamespace(parse_object=lambda options, _: taken.append(options))
        cli._parse_ckpt_path()
        return taken

    model = {"class_path": "subprocess.Popen", "dict_kwargs": {"args": "true"}}
    assert asked(LightningCLI) == [{"fit": {"model": model}}]
    assert not asked(type("Safe", (compat.NoOptionsFromCheckpoint, LightningCLI), {}))


def test_loggers_want_a_folder_or_take_the_working_directory():
    def defaults():
        return [inspect.signature(logger).parameters["save_dir"].default for logger in loggers]

    loggers = [CSVLogger, TensorBoardLogger, WandbLogger]
    before = [inspect.signature(logger) for logger in loggers]
    assert defaults() == [inspect.Parameter.empty, inspect.Parameter.empty, "."]
    with compat.optional_save_dir():
        assert defaults() == [None, None, None]
        for logger, signature in zip(loggers, before, strict=True):
            now = inspect.signature(logger)
            assert [*now.parameters] == [*signature.parameters]
            assert all(now.parameters[name] == signature.parameters[name] for name in {*now.parameters} - {"save_dir"})
    assert [inspect.signature(logger) for logger in loggers] == before


def test_needless_warnings(tmp_path, recwarn, monkeypatch):
    warnings.simplefilter("always")
    connector = "lightning.pytorch.trainer.connectors.data_connector"
    monkeypatch.setattr(f"{connector}.suggested_max_num_workers", lambda _: 8)
    save = LambdaCallback(on_train_batch_end=lambda run, *_: run.save_checkpoint(tmp_path / "mid.ckpt"))
    options = {"limit_train_batches": 2, "enable_checkpointing": False}
    trainer(tmp_path, callbacks=[save], max_steps=1, **options).fit(BoringModel())
    trainer(tmp_path, max_steps=2, **options).fit(BoringModel(), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
    texts = [str(warning.message) for warning in recwarn]
    for message in (compat.MID_EPOCH, compat.FEW_WORKERS, compat.TREESPEC):
        assert first_match([f"({message})"], "\n".join(texts)), (message, texts)


# torch


class Dies(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, _):
        os._exit(1)


@pytest.mark.slow
def test_the_death_of_a_worker_has_no_type():
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(Dies(), num_workers=1)))
    assert type(caught.value) is RuntimeError
    assert compat.worker_died(caught.value)
    assert not compat.worker_died(RuntimeError("out of memory"))


def test_a_summary_writer_takes_no_gif():
    assert not {"add_summary", "add_gif"} & {*public(SummaryWriter)}


class Created(compat.CreatedTensors):
    def __init__(self):
        super().__init__()
        self.tensors = []

    def add(self, tensor):
        self.tensors.append(tensor)


class Called(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **kwargs or {})


def test_only_a_private_mode_sees_backward_passes():
    assert "TorchDispatchMode" not in {*public(torch), *public(torch.overrides), *public(torch.utils)}
    loss = torch.ones(3, requires_grad=True).exp().sum()
    with Created() as created, Called() as called:
        loss.backward()
    assert called.names == ["backward"]
    assert any(tensor.shape == (3,) for tensor in created.tensors)


def test_fake_tensors_are_private():
    assert not any("FakeTensor" in name for name in [*public(torch), *public(torch.utils)])
    with compat.fake_tensors():
        large = torch.zeros(10**15)  # more than there is memory
    assert large.device == torch.device("cpu")


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_fake_storages_have_no_public_key():
    with compat.fake_tensors():
        first, other = torch.zeros(2), torch.zeros(2)
        storages = [tensor.untyped_storage() for tensor in (first, first[1:], other)]
    keys = [compat.storage_key(storage) for storage in storages]
    assert keys[0] == keys[1] != keys[2]
    assert {storage.data_ptr() for storage in storages} == {0}


def test_modules_and_metrics_are_cast():
    class Kept(compat.KeepsPrecision, SumMetric):
        pass

    for metric, kept in ((SumMetric(), False), (Kept(), True)):
        metric.weight = nn.Parameter(torch.ones(1))
        metric.to(torch.half)
        assert (metric.sum_value.dtype == metric.weight.dtype == torch.float32) is kept


# torchmetrics


class Largest(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("largest", torch.tensor(0.0), dist_reduce_fx="max")

    def update(self, value):
        self.take(value)

    def take(self, value):
        self.largest = torch.maximum(self.largest, torch.as_tensor(value))

    def compute(self):
        return self.largest


def test_what_comes_without_update_is_not_noticed():
    metric = Largest()
    metric.update(1.0)
    assert metric.compute() == 1
    metric.take(2.0)
    assert metric.compute() == 1
    compat.note_update(metric)
    assert metric.compute() == 2


def test_the_frechet_distance_of_moments_is_private():
    mean, cov = torch.zeros(2), torch.eye(2)
    assert compat.torchmetrics_frechet(mean, cov, mean + 3, 4 * cov).item() == pytest.approx(20)
    defined = [name for name in public(fid) if getattr(fid, name).__class__.__name__ == "function"]
    assert not any("fid" in name or "distance" in name for name in defined)


def test_a_metric_plots_itself_privately():
    with pytest.raises(NotImplementedError):
        Largest().plot()
    assert callable(Largest()._plot)


# diffusers and transformers


def test_conventions_of_networks_are_private():
    for kind in (ModelMixin, PreTrainedModel, UNet2DConditionModel):
        names = " ".join(public(kind))
        assert not any(part in names for part in ("blocks_to", "repeated_blocks_", "split_modules"))
        assert "supports_gradient_checkpointing" not in public(kind) or kind is PreTrainedModel
        assert hasattr(kind, compat.WHOLE)
    assert getattr(UNet2DConditionModel, compat.REPEATED)
    assert compat.offers_checkpointing(UNet2DConditionModel)
    assert not compat.offers_checkpointing(nn.Linear(1, 1))


class Doubled(ModelMixin, ConfigMixin):
    config_name = "config.json"
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @register_to_config
    def __init__(self, width=1):
        super().__init__()


class Redoubled(Doubled):
    @register_to_config
    def __init__(self, width=1):
        super().__init__(width=2 * width)


def test_a_base_replaces_what_was_recorded():
    assert Redoubled(width=3).config.width == 6
    assert compat.is_recorded(Redoubled())
    assert not compat.is_recorded(Redoubled.__new__(Redoubled))


def test_the_function_for_checkpointing_is_private():
    network = Doubled()
    network.enable_gradient_checkpointing(lambda block, *inputs: ("own", block, *inputs))
    assert not any(callable(getattr(network, name)) for name in vars(network) if not name.startswith("_"))
    assert compat.run_checkpointed(network, nn.Identity, 1) == ("own", nn.Identity, 1)


def test_where_offloaded_weights_run_is_private():
    layer, plain = accelerate.cpu_offload(nn.Linear(2, 2), torch.device("cpu")), nn.Linear(2, 2)
    assert layer.weight.is_meta
    assert not {name for name in vars(layer) if not name.startswith("_")} - set(vars(plain)) - {"forward"}
    assert compat.execution_device(layer) == compat.execution_device(plain) == torch.device("cpu")


def test_the_quantization_of_a_part_is_private():
    config = PipelineQuantizationConfig(quant_mapping={"unet": QuantoConfig("int8")})
    methods = [name for name in public(PipelineQuantizationConfig) if callable(getattr(config, name))]
    assert methods == ["post_init"]  # which checks the arguments
    assert compat.quantization_of(config, "unet").weights_dtype == "int8"
    assert compat.quantization_of(config, "vae") is None


# jsonargparse


class Optimiser:
    def __init__(self, rate: float, steps: int = 3):
        pass


class Trained:
    def __init__(self, factory: Callable[[int], Optimiser], plain: int = 1):
        pass


OWN, TRAINED = f"{__name__}.Optimiser", f"{__name__}.Trained"


@pytest.mark.parametrize(
    ("kind", "given", "pattern", "found"),
    [
        (Optimiser, ["--o", "Nosuch"], compat.UNKNOWN_CLASS[0], "Nosuch"),
        (Optimiser, ["--o", "nosuch.Nosuch"], compat.UNKNOWN_CLASS[1], "nosuch.Nosuch"),
        (Optimiser, ["--o", f"{__name__}.Nosuch"], compat.UNKNOWN_CLASS[1], f"{__name__}.Nosuch"),
        (Trained, ["--o", TRAINED, "--o.factory", f"{OWN}s"], compat.UNKNOWN_CLASS[2], f"{OWN}s"),
        (Trained, ["--o", TRAINED, "--o.factory", "nosuch.Nosuch"], compat.UNKNOWN_CLASS[3], "nosuch.Nosuch"),
        (Optimiser, ["--o", OWN, "--o.rates", "1"], compat.UNKNOWN_OPTION[0], "rates"),
        (Optimiser, ["--p", "1"], compat.UNKNOWN_OPTION[1], "p"),
        (Optimiser, ["--config", '{"group": {"p": 1}}'], compat.UNKNOWN_OPTION[2], "p"),
        (Optimiser, ["--o", OWN], compat.MISSING_ARGUMENT, OWN),
        (Optimiser, ["--o", OWN, "--o.rate", "quick"], compat.NESTED_KEY, "o"),
        (Optimiser, ["--o", OWN, "--o.rate", "quick"], compat.WRONG_VALUE, "rate"),
    ],
)
def test_jsonargparse_complains_in_text(kind, given, pattern, found):
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(kind, "o")
    parser.add_class_arguments(Optimiser, "group")
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(given)
    assert first_match([pattern], " ".join(str(caught.value).split())) == found
    assert set(vars(caught.value)) == {"argument_name", "message"}


# PyAV


def test_pyav_tells_of_a_containers_crop_in_print_alone():
    """That the printed text is parsed correctly is tested in test_frame_geometry.py."""
    named = public(av.VideoStream) + public(av.video.codeccontext.VideoCodecContext) + public(av.VideoFrame)
    assert not [name for name in named if "crop" in name]
    assert "side_data" not in public(av.VideoStream)
    level = av.logging.get_level()
    with av.open(io.BytesIO(mp4_bytes(torch.zeros(3, 2, 16, 16, dtype=torch.uint8), 8))) as container:
        assert compat.container_crop(container, 0) == (0, 0, 0, 0)
        assert "Stream #0:0" not in container.dumps_format()  # without the level
    assert av.logging.get_level() == level
