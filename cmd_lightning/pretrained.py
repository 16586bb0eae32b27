"""Pretrained networks in the layout of diffusers, from a folder or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cmd_lightning.errors import InputError, reason


@dataclass(frozen=True)
class Repository:
    """A pretrained model or a part of one, in a folder or on the hub; read only when needed.

    Args:
        name: A folder in diffusers' layout, or a hub id.
        variant: Variant of the weights, such as "fp16".
        revision: Branch, tag or commit of a hub id.
        option: Name of the user's option, for errors.
        options: Other options of diffusers' `from_pretrained`, such as `torch_dtype` and `cache_dir`.

    Attributes:
        parts: Contents of a folder of this kind, for errors.
        examples: Hub ids of this kind, for errors.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[str, ...]] = ()
    name: str
    variant: str | None = None
    revision: str | None = None
    option: str = "from_pretrained"
    options: Mapping[str, Any] = field(default_factory=dict)

    def find(self, part: str) -> dict[str, Any] | None:
        """The config of a part, such as "unet" or "scheduler", or with "" of the folder itself; None without one."""
        from diffusers import DDIMScheduler, UNet2DConditionModel
        from huggingface_hub.errors import EntryNotFoundError

        kind: Any = DDIMScheduler if part == "scheduler" else UNet2DConditionModel  # which use the same file name
        if self._folder and not (self._folder / part / kind.config_name).is_file():
            return None
        try:
            return self._opened(kind.load_config, part)
        except InputError as error:
            # Without a network: it is not in the cache either.
            if error.__cause__ and isinstance(error.__cause__.__context__, EntryNotFoundError):
                return None
            raise

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, as from `find`; an error if it is missing."""
        if (found := self.find(part)) is None:
            raise self._missing(part)
        return found

    def read(self, opener: Callable[..., Any], part: str, **settings: Any) -> Any:
        """Open a part with `opener`, a `from_pretrained` of diffusers or transformers, and the given `settings`."""
        if self._folder and part and not (self._folder / part).is_dir():
            raise self._missing(part)
        return self._opened(opener, part, **settings)

    @property
    def _folder(self) -> Path | None:
        return Path(self.name) if Path(self.name).is_dir() else None

    def _opened(self, opener: Callable[..., Any], part: str, **settings: Any) -> Any:
        own = {"variant": self.variant, "revision": self.revision, **self.options}
        settings = own | settings | {"subfolder": part or None}
        if not self._folder:
            self._check_hub(settings)
        try:
            return opener(self.name, **{key: value for key, value in settings.items() if value is not None})
        except Exception as error:  # of many kinds: of the hub, of safetensors, of shapes, of json
            if not self._folder:
                raise self._gone(reason(error)) from error
            raise InputError(
                f"{self.option} {self.name}: {part or 'it'} cannot be opened ({reason(error)}); check the folder"
                f"{self._variants(self._folder / part)}"
            ) from error

    def _check_hub(self, settings: Mapping[str, Any]) -> None:
        """Asks the hub once: the libraries would try for minutes, file by file."""
        from huggingface_hub import HfApi, try_to_load_from_cache

        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name):
            raise InputError(
                f"{self.option} {self.name}: there is no such folder, and a hub id is OWNER/NAME; give one"
            )
        where = {"cache_dir": settings.get("cache_dir"), "revision": settings["revision"]}
        configs = [f"{part}config.json" for part in ("", "vae/", "unet/", "transformer/", "text_encoder/")]
        configs += ["scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
        if any(isinstance(try_to_load_from_cache(self.name, file, **where), str) for file in configs):
            return  # one of these is in the cache after any part was read
        if settings.get("local_files_only"):
            raise self._gone("it is not in the cache, and local_files_only is set")
        try:
            HfApi().model_info(self.name, revision=settings["revision"], token=settings.get("token"), timeout=10)
        except Exception as error:  # of many kinds, of the hub and of the network
            raise self._gone(reason(error)) from error

    def _missing(self, part: str) -> InputError:
        what = f"{part or 'config.json'} {'in this folder' if self._folder else 'on the hub or in its cache'}"
        kind = f", with {', '.join(self.parts[:-1])} and {self.parts[-1]}" if self.parts else ""
        return InputError(f"{self.option} {self.name}: there is no {what}; give one in diffusers' layout{kind}")

    def _gone(self, why: str) -> InputError:
        examples = f" such as {' or '.join(self.examples)}" if self.examples else ""
        return InputError(
            f"{self.option} {self.name}: it is not a folder, and cannot be loaded from the hub ({why}); "
            f"give a folder in diffusers' layout or, with a network, a hub id{examples}"
        )

    def _variants(self, folder: Path) -> str:
        """A hint at other variants of the weights in a folder that lacks the requested one."""
        matches = [re.search(r"\.(\w+)\.(safetensors|bin)$", file.name) for file in folder.glob("*")]
        found = {match[1] for match in matches if match}
        return f"; its weights are of variant {', '.join(sorted(found))}" if found - {self.variant} else ""
