"""The model card of a pipeline, as `push_to_hub` writes it: what it is, how to use it, and versions."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import __version__ as diffusers_version
from torch import nn

from cmd_lightning import __version__
from cmd_lightning.markdown import table
from cmd_lightning.pipeline.request import SCHEDULERS


def model_card(pipeline: Any, name: str) -> str:
    """The card in Markdown, with the metadata of the hub; for its author to add licence and data.

    Args:
        pipeline: A `CMDPipeline`.
        name: The repository, OWNER/NAME.
    """
    encoder = next((encoder for encoder in pipeline.encoders.values() if encoder is not None), None)
    call = "num_videos_per_prompt=1" if encoder is None else "class_labels=0"
    task = "unconditional video generation"
    if encoder is not None and encoder.field == "caption":
        call, task = '"a red circle moves left"', "text-to-video"
    height, width = pipeline.size
    frames, fps = pipeline.config.video_shape[1], pipeline.config.fps
    averaged = pipeline.config.averaged_weights or {}
    rows = []
    for part, module in pipeline.components.items():
        if isinstance(module, nn.Module):
            rows.append([f"`{part}`", type(module).__name__, f"{sum(p.numel() for p in module.parameters()):,}"])
        elif module is not None:
            rows.append([f"`{part}`", type(module).__name__, ""])
    sampling = {
        stage: pipeline.sampling(stage) for stage, scheduler in SCHEDULERS.items() if getattr(pipeline, scheduler)
    }
    settings = "; ".join(f"{stage} {steps} steps, guidance {scale:g}" for stage, (steps, scale) in sampling.items())
    return f"""---
library_name: diffusers
pipeline_tag: {"text-to-video" if task == "text-to-video" else "other"}
tags:
- cmd
- video
---

# {name}

A content-motion latent diffusion model ([CMD](https://arxiv.org/abs/2403.14148)) for {task}: {frames} frames of
{width}x{height} pixels at {fps:g} frames per second. This card was generated; add the licence, the training data and
the intended use.

```python
from diffusers.utils import export_to_video
from cmd_lightning.pipeline import CMDPipeline

pipeline = CMDPipeline.from_pretrained("{name}")
export_to_video(pipeline({call}).frames[0], "out.mp4", fps={fps:g})
```

{table(["part", "class", "parameters"], rows)}

Sampling, unless given: {settings}.
Averaged weights: {", ".join(f"{stage} {'yes' if own else 'no'}" for stage, own in averaged.items()) or "not recorded"}.
Saved with cmd-lightning {__version__}, diffusers {diffusers_version}, torch {torch.__version__}.
"""
