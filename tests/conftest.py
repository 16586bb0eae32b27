"""Fixtures of all tests: no network, a fixed seed, tiny models, and the folder of real clips."""

import ipaddress
import os
import socket
from pathlib import Path

import pytest
import small_models
import torch
from forks import Python
from missing import missing
from shard_files import sample, write_tar

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


COLLECTED = pytest.StashKey[dict[str, set[str]]]()


@pytest.hookimpl(tryfirst=True)  # before tests are deselected
def pytest_collection_modifyitems(config, items):
    """Records all tests, and skips those that need a GPU if there is no GPU."""
    names = config.stash[COLLECTED] = {}
    for item in items:
        names.setdefault(item.path.relative_to(config.rootpath).as_posix(), set()).add(item.originalname)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def same_threads():
    """Restores the number of threads after each test, as the last bit of sums depends on it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_modules_of_others(monkeypatch):
    """Modules that a test imports with `--import` are not suggested to the next test."""
    monkeypatch.setattr("cmd_lightning.zoo.discovery.OTHERS", [])


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connections that leave this machine raise."""

    def check(address):
        host = address[0] if isinstance(address, tuple) else None  # a path is a local socket
        host = host.decode() if isinstance(host, bytes) else host
        if host in (None, "", "localhost", socket.gethostname()):
            return
        try:
            local = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            raise RuntimeError(f"tests have no network, but something looks for {host}") from None
        if not (local.is_loopback or local.is_unspecified):
            raise RuntimeError(f"tests have no network, but something connects to {host}")

    def guard(name):
        original = getattr(socket.socket, name)

        def guarded(self, *args):
            if self.family != getattr(socket, "AF_UNIX", None):
                check(args[-1])
            return original(self, *args)

        return guarded

    look_up = socket.getaddrinfo

    def guarded_look_up(host, *args, **kwargs):
        check((host,))
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guard(name))
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test has the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def collected(request):
    """The names of all tests of this run's files, by file."""
    return request.config.stash[COLLECTED]


@pytest.fixture(scope="session")
def assets():
    """The folder of real clips and weights that CMD_ASSETS names."""
    name = os.environ.get("CMD_ASSETS")
    if not name:
        pytest.skip("CMD_ASSETS names no folder of real clips")
    return Path(name) if Path(name).is_dir() else missing(f"CMD_ASSETS={name}: there is no such folder")


@pytest.fixture(scope="session")
def python():
    """Runs Python programs without the time for importing libraries; see `forks`."""
    python = Python()
    yield python
    python.close()


VIDEO_SHAPE = (3, 5, 8, 12)
"""Video shape of the tiny models: an odd number of frames, not square."""


@pytest.fixture
def wake():
    """Adds a random value to every weight of a network, as `small_models.wake`, in evaluation mode."""
    return lambda network, scale=0.1: small_models.wake(network, scale).eval()


@pytest.fixture
def tiny_autoencoder(wake):
    """Creates a small autoencoder with random weights and measured motion statistics."""
    from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder

    def make(**changes):
        settings = {"patch_size": 2, "width": 16, "motion_channels": 3, "depth": 1, "heads": 2, "head_dim": 8}
        network = wake(CMDAutoencoder(**settings | {"output": "linear"} | changes))
        network.motion_mean.copy_(0.3 * torch.randn_like(network.motion_mean))
        network.motion_std.copy_(0.5 + torch.rand_like(network.motion_std))
        return network

    return make


@pytest.fixture
def tiny_condition(wake):
    """Creates a small condition encoder: of captions ("caption"), of classes ("label"), or None."""
    from cmd_lightning.conditioning import ClassEncoder, OpenCLIPTextEncoder

    def make(kind):
        if kind is None:
            return None
        return wake(OpenCLIPTextEncoder(small_models.TEXT) if kind == "caption" else ClassEncoder(4, 16))

    return make


@pytest.fixture
def tiny_pipeline(wake, tiny_autoencoder, tiny_condition):
    """Creates a whole pipeline with random weights, conditioned on captions, labels or nothing."""
    from cmd_lightning.diffusion import Diffusion
    from cmd_lightning.pipeline import CMDPipeline
    from cmd_lightning.zoo.content.unet import unet
    from cmd_lightning.zoo.motion.dit import MotionDiT

    def make(condition="caption", **changes):
        autoencoder = tiny_autoencoder()
        spec = autoencoder.latent_spec(VIDEO_SHAPE)
        dim = 16 if condition else 0
        parts = {
            "unet": wake(unet(spec, dim, (8, 16), 1, 2)),
            "scheduler": Diffusion(clip_sample=True).scheduler(),
            "text_encoder": tiny_condition(condition),
            "motion_model": wake(MotionDiT(spec, dim, width=16, depth=1, heads=2)),
            "motion_scheduler": Diffusion().scheduler(),
            "motion_text_encoder": tiny_condition(condition),
        }
        pipeline = CMDPipeline(autoencoder, **parts | changes, video_shape=VIDEO_SHAPE, fps=7.0)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.fixture
def save_checkpoint():
    """Writes the parts of a Trainer's checkpoint of a component that later stages read."""

    def save(component, path, **more):
        checkpoint = {"state_dict": component.state_dict(), **more}
        component.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, path)
        return path

    return save


@pytest.fixture
def tiny_stages(tmp_path, save_checkpoint, tiny_autoencoder, tiny_condition, wake):
    """Writes the checkpoints of three small stages: their paths and components, by stage."""
    from cmd_lightning.components import ContentDiffusion, MotionDiffusion, VideoAutoencoder
    from cmd_lightning.zoo.content.unet import unet
    from cmd_lightning.zoo.motion.dit import MotionDiT

    def make(condition="label"):
        first = VideoAutoencoder(tiny_autoencoder)
        first.video_shape, first.fps = VIDEO_SHAPE, 7.0
        paths = {"autoencoder": save_checkpoint(first, tmp_path / "autoencoder.ckpt")}
        components = {"autoencoder": first}
        for name, kind, network in (
            ("content", ContentDiffusion, lambda spec, dim: unet(spec, dim, (8, 16), 1, 2)),
            ("motion", MotionDiffusion, lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2)),
        ):
            component = kind(network, str(paths["autoencoder"]), condition=tiny_condition(condition))
            wake(component)
            components[name] = component
            paths[name] = save_checkpoint(component, tmp_path / f"{name}.ckpt")
        return paths, components

    return make


@pytest.fixture
def decoded(monkeypatch):
    """The times of all decoded frames, requested or not."""
    from cmd_lightning.video_file import VideoFile

    times, original = [], VideoFile._decoded

    def counted(self, *given):
        for frame in original(self, *given):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoFile, "_decoded", counted)
    return times


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Five shards of 4, 7, 1, 5 and 6 samples, with an index."""
    folder = tmp_path_factory.mktemp("shards")
    number = 0
    for shard, count in enumerate((4, 7, 1, 5, 6)):
        write_tar(folder / f"{shard:05d}.tar", [sample(f"{number + i:04d}", number + i) for i in range(count)])
        number += count
    return folder
