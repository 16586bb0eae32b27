from typing import Literal

import pytest

from cmd_lightning.commands.parser import docstring_of, parser_of
from cmd_lightning.errors import InputError


def verb(
    model: str,
    clips: list[str],
    *,
    out: str,
    class_: list[int] | None = None,
    mode: Literal["fast", "slow"] = "slow",
    steps: dict[str, int] | None = None,
    guidance: dict[str, float] | None = None,
    solver: dict[str, Literal["quick", "exact"]] | None = None,
    batch_size: int = 8,
    fps: float = 7.5,
    verbose: bool = False,
) -> None:
    """Does something in 100 % of cases.

    More of it, in two
    lines.

    Args:
        model: Model folder.
        clips: Videos; one or
            several of them.
        out: Folder to write.
        class_: Class ids.
        mode: How fast.
        steps: Denoising steps, 50 % of the time.
        batch_size: Videos at once.
        fps: Frames per second.

    Raises:
        InputError: Something is wrong.
    """


def parse(*words):
    return parser_of(verb, "program verb").parse_all(words)


def test_positions_options_and_defaults():
    assert parse("folder", "a.mp4", "b.mp4", "--out", "here") == {
        "model": "folder",
        "clips": ["a.mp4", "b.mp4"],
        "out": "here",
        "class_": None,
        "mode": "slow",
        "steps": None,
        "guidance": None,
        "solver": None,
        "batch_size": 8,
        "fps": 7.5,
        "verbose": False,
    }


def test_options_have_their_types():
    words = [
        "m",
        "c",
        "--out",
        "o",
        "--class",
        "3",
        "1",
        "--mode",
        "fast",
        "--batch-size",
        "2",
        "--fps",
        "25",
        "--verbose",
    ]
    values = parse(*words)
    assert values["class_"] == [3, 1]
    assert (values["mode"], values["batch_size"], values["fps"], values["verbose"]) == ("fast", 2, 25.0, True)
    assert isinstance(values["fps"], float)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("50", {"content": 50, "motion": 50}),
        ("content=50,motion=100", {"content": 50, "motion": 100}),
        ("motion=7", {"motion": 7}),
        ("motion=7, content=3", {"content": 3, "motion": 7}),
    ],
)
def test_numbers_by_stage(text, steps):
    assert parse("m", "c", "--out", "o", "--steps", text)["steps"] == steps
    guidance = parse("m", "c", "--out", "o", "--guidance", text)["guidance"]
    assert guidance == steps
    assert {type(value) for value in guidance.values()} == {float}


def test_choices_by_stage():
    for text, wanted in (("quick", {"content": "quick", "motion": "quick"}), ("motion=exact", {"motion": "exact"})):
        assert parse("m", "c", "--out", "o", "--solver", text)["solver"] == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("m c", "--out"),
        ("m c --out o --solver fast", "--solver.*'fast' is not one of quick, exact"),
        ("m c --out o --solver motion=fast", "--solver.*'fast' is not one of quick, exact"),
        ("m --out o", "CLIPS: missing; see `program verb --help`"),
        ("m c --out o --steps ten", "--steps.*ten"),
        ("m c --out o --steps content=ten", "--steps"),
        ("m c --out o --steps content=1=2", "--steps"),
        ("m c --out o --steps content", "--steps"),
        ("m c --out o --batch-size 2.5", "--batch-size 2.5: give a whole number"),
        ("m c --out o --fps fast", "--fps fast: give a number"),
        ("m c --out o --class one", "--class.*one"),
        ("m c --out o --mode medium", "--mode.*medium.*fast"),
        ("m c --out o --bach-size 2", "--bach-size: there is no such option; did you mean --batch-size?"),
        ("m c --out o --guidnce=2", "--guidnce=2: there is no such option; did you mean --guidance?"),
        ("m c --out o --batch 2", "--batch: there is no such option"),  # no abbreviations
        ("m c --out o --xyzzy", "--xyzzy: there is no such option; see `program verb --help`"),
    ],
)
def test_mistakes_are_reported(words, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as error:
        parse(*words.split())
    assert "\n" not in str(error.value)


def test_help_has_the_docstring_and_the_defaults(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "usage: program verb",
        "Does something in 100 % of cases.",
        "More of it, in two lines.",
        "MODEL Model folder.",
        "Videos; one or several of them.",
        "--batch-size BATCH_SIZE Videos at once. (default: 8)",
        "--fps FPS Frames per second. (default: 7.5)",
        "--mode {fast,slow} How fast. (default: slow)",
        "Denoising steps, 50 % of the time.",
        "STEPS or content=STEPS,motion=STEPS",
        "--class CLASS",
        "--out OUT Folder to write.",
    ):
        assert words in text
    assert "default: None" not in text
    assert "default: False" not in text
    assert "InputError" not in text


def test_a_verb_without_docstring():
    def bare(*, num: int = 3) -> None:
        pass

    assert parser_of(bare, "p").parse_all([]) == {"num": 3}
    assert docstring_of(bare) == ("", {})
