"""The proof as an image: a small plot for each metric and corruption."""

from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLOURS = {"plain": (37, 99, 235), "mixed": (217, 72, 15)}
INK, SOFT, RULE = (28, 32, 36), (96, 101, 108), (228, 230, 234)
WIDTH, HEIGHT, LEFT, TOP, GAP = 128, 108, 168, 46, 14


def draw_plot(result: dict[str, Any]) -> Image.Image:
    """A row for each metric and a column for each corruption: value by strength, with the spread, per level.

    Every plot has its own scale, given in its corners. Where nothing is asked of a metric the curve is pale.
    """
    metrics = list(result["rows"][0]["responses"])
    corruptions = list(result["strengths"])
    size = LEFT + len(corruptions) * (WIDTH + GAP) + GAP, TOP + len(metrics) * (HEIGHT + GAP) + 22
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    small, normal = ImageFont.load_default(11), ImageFont.load_default(12)
    for column, corruption in enumerate(corruptions):
        place = LEFT + column * (WIDTH + GAP) + WIDTH / 2, TOP - 10
        draw.text(place, corruption, INK, normal, anchor="ms")
    for number, (level, colour) in enumerate(COLOURS.items()):
        draw.line((10, 14 + 14 * number, 30, 14 + 14 * number), colour, 2)
        draw.text((36, 14 + 14 * number), level, INK, small, anchor="lm")
    draw.text((LEFT, size[1] - 8), "strength 0 to 4; bars: twice the spread either way", SOFT, small, anchor="lb")
    for row, metric in enumerate(metrics):
        top = TOP + row * (HEIGHT + GAP)
        head, _, tail = metric.replace("é", "e").partition(", ")  # the font has no accents
        draw.text((10, top + HEIGHT / 2 - 8), head, INK, normal, anchor="lm")
        draw.text((10, top + HEIGHT / 2 + 8), tail, INK, normal, anchor="lm")
        found = {one["level"]: one["responses"].get(metric, {}) for one in result["rows"]}
        for column, corruption in enumerate(corruptions):
            answers = {level: responses[corruption] for level, responses in found.items() if corruption in responses}
            _draw_panel(draw, answers, (LEFT + column * (WIDTH + GAP), top))
    return image


def _draw_panel(draw: ImageDraw.ImageDraw, answers: dict[str, dict[str, Any]], corner: tuple[int, int]) -> None:
    left, top = corner
    small = ImageFont.load_default(10)
    ends = [
        value + side * spread
        for answer in answers.values()
        for value, spread in zip(answer["values"], answer["spreads"], strict=True)
        for side in (-2, 2)
    ]
    low, high = min(ends), max(ends)

    def height(value: float) -> float:
        return top + HEIGHT - 16 - (value - low) / ((high - low) or 1) * (HEIGHT - 46)

    draw.rectangle((left, top, left + WIDTH, top + HEIGHT), outline=RULE)
    draw.text((left + 4, top + 3), f"{high:.3g}", SOFT, small, anchor="lt")
    draw.text((left + 4, top + HEIGHT - 3), f"{low:.3g}", SOFT, small, anchor="lb")
    across = [left + 12 + step * (WIDTH - 24) / 4 for step in range(5)]
    for number, (level, answer) in enumerate(answers.items()):
        unasked = answer["not asked because"]
        colour = tuple(round(255 - (255 - part) * 0.35) for part in COLOURS[level]) if unasked else COLOURS[level]
        places = [(x, height(value)) for x, value in zip(across, answer["values"], strict=True)]
        draw.line(places, colour, 2, joint="curve")
        for (x, y), value, spread in zip(places, answer["values"], answer["spreads"], strict=True):
            draw.line((x, height(value - 2 * spread), x, height(value + 2 * spread)), colour, 1)
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), colour)
        verdict = "not asked" if unasked else answer["verdict"]
        draw.text((left + WIDTH - 4, top + 3 + 11 * number), verdict, colour, small, anchor="rt")
