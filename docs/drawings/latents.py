"""The shapes of the latents: the paper's rows and columns, and the grid."""

from __future__ import annotations

from canvas import Canvas


def latents() -> Canvas:
    """A row per autoencoder: what becomes of a clip (C, T, H, W) cut into H' × W' patches."""
    canvas = Canvas(800, 478, "Latent shapes of the paper's autoencoder and of the grid autoencoder")
    canvas.text(
        16, 30, "A clip (C, T, H, W), cut into H′ × W′ patches per frame", anchor="start", kind="strong", size=15
    )
    for number in range(4):
        canvas.tile(number, 0, 510 + 70 * number, 18, 62)
    canvas.text(16, 60, "Here T = 16 and H = W = 32. The D = 8 channels of motion are", anchor="start", kind="soft")
    canvas.text(16, 79, "shown by their first three principal components, as colours.", anchor="start", kind="soft")

    canvas.parts.append('<path d="M16 98 H784" class="group"/>')
    canvas.text(16, 126, "Rows and columns, as in the paper", anchor="start", kind="strong", size=15)
    canvas.text(784, 126, "CMDAutoencoder", anchor="end", kind="code", size=13)
    canvas.tile(0, 3, 42, 142, 96, kind="content")
    canvas.text(90, 256, "content (C, H, W)", size=13)
    canvas.text(90, 273, "weighted sum of frames", kind="soft", size=13)
    for left, column, name, mean in (
        (212, 0, "rows: (D, T, H′)", "mean over each row of patches"),
        (466, 2, "columns: (D, T, W′)", "mean over each column"),
    ):
        canvas.tile(column, 4, left, 142, 96, wide=2, kind="motion")
        canvas.text(left + 96, 256, f"{name}; time →", size=13)
        canvas.text(left + 96, 273, mean, kind="soft", size=13)
    canvas.text(435, 197, "+", size=22)
    canvas.text(726, 188, "S slots per frame:", size=13)
    canvas.text(726, 208, "S = H′ + W′", kind="strong")

    canvas.parts.append('<path d="M16 290 H784" class="group"/>')
    canvas.text(16, 318, "A grid per frame", anchor="start", kind="strong", size=15)
    canvas.text(784, 318, "GridAutoencoder", anchor="end", kind="code", size=13)
    canvas.tile(0, 1, 42, 334, 96, kind="content")
    canvas.text(90, 448, "content (C, H, W)", size=13)
    canvas.text(90, 465, "in shapes32: frame 0", kind="soft", size=13)
    for number in range(4):
        canvas.tile(number, 2, 212 + 112 * number, 334, 96, kind="motion")
    canvas.text(428, 448, "(D, T, h · w): an h × w grid per frame; 4 of the T frames", size=13)
    canvas.text(428, 465, "mean over each cell", kind="soft", size=13)
    canvas.text(726, 388, "S = h · w", kind="strong")
    return canvas
