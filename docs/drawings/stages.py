"""The three stages of training and the files that go from one to the next."""

from __future__ import annotations

from canvas import Canvas


def stages() -> Canvas:
    """Shards on the left, one row per stage, the exported model on the right."""
    canvas = Canvas(800, 380, "Shards train three stages; their checkpoints are exported to one model folder")
    canvas.box(16, 130, 120, 104, "shards", "clips, captions", "`shards/train`", "`shards/test`")
    rows = (
        (40, "1. autoencoder", "`fit -c autoencoder.yaml`", "`autoencoder/last.ckpt`", "box"),
        (152, "2. content model", "`fit -c content.yaml`", "`content/last.ckpt`", "content"),
        (264, "3. motion model", "`fit -c motion.yaml`", "`motion/last.ckpt`", "motion"),
    )
    for y, stage, command, file, kind in rows:
        canvas.box(172, y, 196, 60, stage, command, kind=kind)
        canvas.box(416, y + 10, 178, 40, file)
        canvas.arrow((136, 182 + (y - 152) / 4), (168, y + 30))
        canvas.arrow((368, y + 30), (412, y + 30))
        canvas.arrow((594, y + 30), (634, 182 + (y - 152) / 4))
    canvas.arrow((440, 90), (440, 126), (350, 126), (350, 148))
    canvas.parts.append('<path d="M392 126 V238" style="fill: none; stroke: var(--line); stroke-width: 1.5"/>')
    canvas.arrow((392, 238), (350, 238), (350, 260))
    canvas.box(638, 138, 146, 88, "model folder", "`export`", "safetensors, JSON")
    canvas.box(638, 30, 146, 60, "scores", "`test -c cmd.yaml`")
    canvas.box(638, 274, 146, 60, "videos", "`generate`")
    canvas.arrow((711, 138), (711, 94))
    canvas.arrow((711, 226), (711, 270))
    canvas.text(
        16,
        362,
        "Stages 2 and 3 need stage 1, not each other. cmd-lightning train runs all of it on your clips.",
        anchor="start",
        kind="soft",
    )
    return canvas
