"""The method: clip → content frame and motion latent → clip, and the two models that generate the latents."""

from __future__ import annotations

from canvas import Canvas


def method() -> Canvas:
    """The autoencoder above, the diffusion models of its two latents below."""
    canvas = Canvas(800, 452, "A clip is encoded as a content frame and a motion latent, and decoded again")
    canvas.text(16, 30, "The autoencoder", anchor="start", kind="strong", size=15)
    small, gap = 40, 4
    for left, row, first in ((16, 0, 0), (612, 1, 1)):
        for number in range(4):
            canvas.tile(first + number, row, left + number * (small + gap), 102, small)
    canvas.text(102, 162, "clip, T frames")
    canvas.text(698, 162, "decoded clip")
    canvas.box(216, 92, 76, 60, "encoder")
    canvas.box(508, 92, 76, 60, "decoder")

    canvas.box(316, 44, 168, 102, kind="content")
    canvas.tile(0, 1, 324, 52, 62, kind="content")
    canvas.text(394, 78, "content", anchor="start", kind="strong")
    canvas.text(394, 96, "frame", anchor="start", kind="strong")
    canvas.text(324, 136, "one image for the clip", anchor="start", kind="soft", size=13)
    canvas.box(308, 158, 184, 92, kind="motion")
    for number in range(4):
        canvas.tile(number, 2, 314 + number * (small + gap), 166, small, kind="motion")
    canvas.text(400, 226, "motion latent", kind="strong")
    canvas.text(400, 243, "a few numbers per frame", kind="soft", size=13)

    canvas.arrow((190, 122), (212, 122))
    canvas.arrow((292, 112), (312, 100))
    canvas.arrow((292, 132), (304, 170))
    canvas.arrow((484, 100), (504, 112))
    canvas.arrow((492, 180), (510, 156))
    canvas.arrow((584, 122), (608, 122))

    canvas.parts.append('<path d="M16 276 H784" class="group"/>')
    canvas.text(16, 304, "The two diffusion models", anchor="start", kind="strong", size=15)
    canvas.box(16, 332, 176, 92, "caption or class", "“a yellow diamond", "circles anticlockwise”")
    canvas.box(232, 314, 222, 58, "content model", "an image diffusion model", kind="content")
    canvas.box(232, 384, 222, 58, "motion model", "a small diffusion transformer", kind="motion")
    canvas.box(532, 320, 120, 46, "content frame", kind="content")
    canvas.box(532, 390, 120, 46, "motion latent", kind="motion")
    canvas.box(698, 352, 86, 60, "decoder")
    canvas.arrow((192, 360), (228, 345))
    canvas.arrow((192, 395), (228, 412))
    canvas.arrow((454, 343), (528, 343))
    canvas.arrow((560, 366), (458, 400))
    canvas.arrow((454, 416), (528, 416))
    canvas.arrow((652, 346), (694, 368))
    canvas.arrow((652, 412), (694, 396))
    canvas.text(741, 440, "new video", size=14)
    canvas.arrow((741, 412), (741, 426))
    return canvas
