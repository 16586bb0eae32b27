import io
import json
import tarfile

import torch
from safetensors.torch import save

from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.video_encoding import mp4_bytes


def write_tar(path, samples):
    """A shard as anybody would write one: a list of {member name: bytes}."""
    with tarfile.open(path, "w") as tar:
        for members in samples:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def sample(key, index=0, frames=6, **facts):
    video, about = make_clip(7, index, frames=frames, fps=8, size=16)
    return {
        f"{key}.mp4": mp4_bytes(video, 8, preset="ultrafast"),
        f"{key}.txt": about["caption"].encode(),
        f"{key}.json": json.dumps({"label": index % 4, **facts}).encode(),
    }


def plain(keys):
    """Keys of a batch as they are in the shards: without the names of these."""
    return [key.rpartition("/")[2] for key in keys]


def serve_folder(folder):
    """The answers of an `http_server.Server` that serves the files of a folder."""

    def answer(reply, _):
        file = folder / reply.path.lstrip("/")
        if file.is_file():
            reply.file(file.read_bytes())
        else:
            reply.status(404, Content_Length=0)

    return answer


def latent_sample(key, number=0, clips=3, made_by=None, **tensors):
    """A sample of a latent shard: content and motion whose values are `number` + its clip / 10, and text."""
    values = number + torch.arange(clips) / 10
    held = {
        "content": values.view(-1, 1, 1, 1).expand(-1, 4, 2, 3).half(),
        "motion": values.view(-1, 1, 1, 1).expand(-1, 2, 5, 6).half(),
        "text.0123456789abcdef.pooled": torch.full((7,), float(number)).half(),
        "text.0123456789abcdef.tokens": torch.full((4, 7), float(number)).half(),
        "text.0123456789abcdef.mask": torch.tensor([True, True, False, False]),
    } | tensors
    about = {"label": number % 4, "fps": 7.5, "made_by": made_by or {"latent_space": "pixels", "autoencoder": "ab"}}
    return {
        f"{key}.safetensors": save({name: held[name].contiguous() for name in held if held[name] is not None}),
        f"{key}.txt": f"clip {number}".encode(),
        f"{key}.json": json.dumps(about).encode(),
    }
