"""`CMDPipeline` from and to folders, the hub and other pipelines."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import create_repo, file_exists, snapshot_download, upload_folder
from torch import nn

from cmd_lightning import compat
from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks.classes import load_class
from cmd_lightning.pipeline.card import model_card
from cmd_lightning.zoo import model_folder, models

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")
"""Arguments for reading from the hub."""
LOADING = ("device_map", "max_memory", "use_safetensors", "low_cpu_mem_usage", "disable_mmap")
"""Arguments for every part; dtype, variant and quantization may differ between parts."""


class Folder:
    """The part of `CMDPipeline` that opens and saves; comes before `DiffusionPipeline` among the bases."""

    components: dict[str, Any]
    register_to_config: Any
    _optional_components: list[str]

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Opens a folder that `save_pretrained` or `cmd-lightning export` wrote, an included model, or one of the hub.

        Weights are float32, even if they were stored in half precision, unless a dtype is given.

        Args:
            model: The folder, a name of the zoo, or a hub id, OWNER/NAME.
            **kwargs: As for any diffusers pipeline; a part given by name replaces the folder's.

        Raises:
            InputError: There is no such model, the folder is not a CMD pipeline, a part is of a third-party class that
                is not imported, or parts are requested on several devices.
        """
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = model_folder(downloaded(str(model), kwargs.get("use_safetensors"), **hub))
        if kwargs.get("device_map") == "balanced":
            raise InputError("device_map balanced: the parts run on one device; give 'cuda' or 'cpu'")
        if (variant := kwargs.get("variant")) and not any(folder.glob(f"*/*.{variant}.*")):
            raise InputError(f"variant {variant}: {folder} has no such weights; leave it out, or give another folder")
        described = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = {name: kwargs.pop(name) for name in cls._optional_components if name in kwargs}
        # diffusers opens its own and transformers' classes; ours are opened here, and others are rejected by name.
        for name in set(cls._optional_components) - set(parts):
            library, class_name = described.get(name) or (None, None)
            if isinstance(library, str) and library not in ("diffusers", "transformers"):
                part: Any = load_class(f"{library}.{class_name}")
                parts[name] = part.from_pretrained(folder, subfolder=name, **settings_of(name, folder, kwargs))
        opened = super().from_pretrained(folder, **kwargs, **dict.fromkeys(parts))  # type: ignore[misc]  # a base of the pipeline has it
        opened.register_modules(**parts)
        if not {"dtype", "torch_dtype", "quantization_config"} & kwargs.keys():
            for part in opened.components.values():  # transformers keeps the stored type
                if isinstance(part, nn.Module):
                    nn.Module.float(part)
        return opened

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Any:
        """As for any diffusers pipeline: a pipeline of the parts of another, such as one of Stable Diffusion.

        Args:
            pipeline: The source of the parts, which are used unchanged.
            **kwargs: Parts that replace or extend these, such as `autoencoder`, and settings, such as
                `video_shape`. `dtype` casts all parts, those of `pipeline` too: by default to float32, as in diffusers.
        """
        own = {name: part for name, part in pipeline.components.items() if name in cls._optional_components}
        return super().from_pipe(pipeline, **own | kwargs)  # type: ignore[misc]  # a base of the pipeline has it

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As for any diffusers pipeline; classes of other packages are recorded with the full name of their module.

        diffusers takes `my_package.dit.model` for a module of its own pipeline `dit`, and records that name.
        """
        for name, part in self.components.items():
            module = type(part).__module__
            if part is not None and module.partition(".")[0] not in ("diffusers", "torch", "transformers"):
                self.register_to_config(**{name: (module, type(part).__name__)})
        push = kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in ("repo_id", *UPLOAD) if name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]  # a base of the pipeline has it
        if push:
            self._upload(Path(save_directory), **{"repo_id": Path(save_directory).name} | hub)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> str:
        """As for any diffusers pipeline: uploads the model, with a model card unless the repository has one.

        Args:
            repo_id: OWNER/NAME of the repository; it is created if it does not exist.
            commit_message: Message of the commit.
            private: Whether a new repository is private.
            token: Access token; by default the one that is logged in.
            create_pr: Whether to open a pull request with the files.
            safe_serialization: Whether weights are safetensors.
            variant: Name of a variant of the weights, such as "fp16".

        Returns:
            The address of the commit.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return self._upload(Path(folder), repo_id, commit_message, private, token, create_pr)

    def _upload(
        self,
        folder: Path,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads a folder that `save_pretrained` wrote, with a model card if it has none."""
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        if not (folder / "README.md").exists() and not file_exists(repo_id, "README.md", token=token):
            (folder / "README.md").write_text(model_card(self, repo_id), encoding="utf-8")
        message = commit_message or "Upload CMDPipeline"
        return upload_folder(
            repo_id=repo_id, folder_path=folder, token=token, commit_message=message, create_pr=create_pr
        )


UPLOAD = ("commit_message", "private", "token", "create_pr")
"""Arguments of `save_pretrained` for the upload."""


def downloaded(model: str, use_safetensors: bool | None, **options: Any) -> str:
    """The local folder of a hub id; a folder or a name of the zoo is returned unchanged.

    Raises:
        InputError: The hub has no such model, or cannot be reached.
    """
    if Path(model).exists() or model in models() or not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return model
    weights = "*.bin" if use_safetensors is False else "*.safetensors"
    try:
        # Not by `download` of diffusers, which takes only parts of its own classes and of transformers'.
        return snapshot_download(model, allow_patterns=["*.json", "*.txt", weights], **options)
    except Exception as error:  # of many kinds, of the hub and of the network
        raise InputError(
            f"model {model}: there is no such folder, and the hub does not provide it ({reason(error)}); give a folder "
            f"that `cmd-lightning export` wrote, or a name of the zoo: {', '.join(models())}"
        ) from error


def settings_of(part: str, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `from_pretrained` for a part of this project, from those for the whole pipeline."""
    settings = {name: given[name] for name in LOADING if name in given}
    dtype = given.get("dtype", given.get("torch_dtype"))
    if isinstance(dtype, dict):
        dtype = dtype.get(part, dtype.get("default", torch.float32))
    if dtype is not None:
        settings["torch_dtype"] = dtype
    # As in diffusers, a part without files of the variant is opened without it.
    if (variant := given.get("variant")) and any((folder / part).glob(f"*.{variant}.*")):
        settings["variant"] = variant
    if (config := given.get("quantization_config")) and (own := compat.quantization_of(config, part)):
        settings["quantization_config"] = own
    return settings
