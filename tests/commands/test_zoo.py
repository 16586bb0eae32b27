"""`zoo list` and `zoo show`, the cards, and the guide docs/add-a-motion-model.md, followed exactly."""

import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from cmd_lightning import zoo
from cmd_lightning.cli import main
from cmd_lightning.commands.zoo import short
from cmd_lightning.errors import InputError
from cmd_lightning.networks import MotionModel
from cmd_lightning.zoo import discovery
from cmd_lightning.zoo.card import Card

ROOT = Path(__file__).parents[2]
CARDS = sorted(path.stem for path in (ROOT / "zoo/cards").glob("*.yaml"))


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")


def run(capsys, *words):
    capsys.readouterr()
    assert main(["zoo", *words]) == 0
    return capsys.readouterr().out


def test_discovery_finds_what_importing_finds():
    """Against Python's own idea of which classes there are and whose subclasses they are."""
    from cmd_lightning import networks

    contracts = {"motion": networks.MotionModel, "content": networks.ContentModel}
    contracts |= {"autoencoder": networks.AutoencoderNetwork, "baseline": networks.VideoDenoiser}
    imported = {("content", "unet")}  # a function, which makes a stock U-Net
    for kind, folder in discovery.FOLDERS.items():
        for path in (ROOT / "zoo" / folder).glob("*.py"):
            module = importlib.import_module(f"cmd_lightning.zoo.{folder}.{path.stem}")
            for name, cls in inspect.getmembers(module, inspect.isclass):
                if issubclass(cls, contracts[kind]) and cls.__module__ == module.__name__ and name[0] != "_":
                    imported.add((kind, name))
    found = [(entry.kind, entry.name) for entry in zoo.entries() if entry.kind != "model"]
    assert len(found) == len(set(found))
    assert set(found) == imported
    assert len({name.lower() for _, name in found}) == len(found), "cards are files, also where case does not count"
    assert [entry.name for entry in zoo.entries("model")] == zoo.models()


SOURCE = """
import jsonargparse
from torch import nn
from cmd_lightning import networks
from cmd_lightning.networks import ContentModel, MotionModel, VideoDenoiser
class _Base(MotionModel): ...
class Mine(_Base):
    \"\"\"A model
    of mine.

    More.\"\"\"
class MotionModel(nn.Module): ...
class Block(MotionModel): ...
class Theirs(networks.MotionModel): ...
class Baseline(VideoDenoiser): ...
class Content(ContentModel): ...
@jsonargparse.class_from_function
def factory() -> networks.MotionModel: ...
def helper() -> networks.MotionModel: ...
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder of motion models in the place of the zoo's, of which nothing stays imported."""
    from cmd_lightning.zoo import motion

    (tmp_path / "motion").mkdir()
    monkeypatch.setattr(discovery, "ROOM", tmp_path)
    monkeypatch.setattr(motion, "__path__", [str(tmp_path / "motion")])
    yield tmp_path
    for name in ("some", "other"):
        sys.modules.pop(f"cmd_lightning.zoo.motion.{name}", None)


def test_discovery_is_by_type(room):
    """A name alone, such as of another class called `MotionModel`, does not count."""
    (room / "motion/some.py").write_text(SOURCE)
    found = {entry.name: entry for entry in discovery.networks("motion")}
    assert list(found) == ["factory", "Mine", "Theirs"]
    assert found["Mine"] == discovery.Entry("Mine", "motion", "cmd_lightning.zoo.motion.some", "A model of mine.")
    assert issubclass(found["factory"].load(), MotionModel)
    (room / "motion/other.py").write_text("x = 1\ndef (")
    with pytest.raises(InputError, match=r"motion\.other: cannot be imported .*line 2"):
        discovery.networks("motion")


def test_discovery_imports_again_only_after_an_edit(room, monkeypatch):
    path, imports = room / "motion/some.py", []
    path.write_text(SOURCE)
    imported = discovery.imported
    monkeypatch.setattr(discovery, "imported", lambda kind: imports.append(kind) or imported(kind))
    first = discovery.networks("motion")
    assert discovery.networks("motion") == discovery.networks("motion") == first
    assert len(imports) == 1
    imports.clear()
    path.write_text(SOURCE + "# edited\n")
    assert discovery.networks("motion") == first
    assert len(imports) == 1
    (room / "motion/__pycache__/entries.json").write_text("{")
    assert discovery.networks("motion") == first
    assert len(imports) == 2
    (room / "motion/parts").mkdir()
    (room / "motion/parts/layers.py").write_text("")
    assert discovery.networks("motion") == first
    assert len(imports) == 3


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("a.b.Mine", ("a.b.Mine", {})),
        ("{class_path: Mine}", ("Mine", {})),
        ("{class_path: Mine, init_args: {width: 3}}", ("Mine", {"width": 3})),
        ("{init_args: {width: 3}}", ("", {"width": 3})),  # laid over another
    ],
)
def test_the_network_of_a_config(tmp_path, network, expected):
    path = tmp_path / "a.yaml"
    path.write_text(f"model: {{init_args: {{network: {network}}}}}")
    assert discovery.network_of(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no model.init_args.network"),
        ("model: MotionDiffusion", "it has no model.init_args.network"),
        ("model: {init_args: {network: {width: 3}}}", "it has no model.init_args.network"),
        ("model: {init_args: {network: 3}}", "it has no model.init_args.network"),
        ("model: {init_args: {network: {class_path: Mine, init_args: 3}}}", "it has no model.init_args.network"),
        ("model: [", "it is no YAML"),
        (None, "there is no such file"),
    ],
)
def test_configs_that_name_no_network(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"a\.yaml: {message}") as caught:
        discovery.network_of(path)
    assert "\n" not in str(caught.value)


def test_list_is_a_table_within_the_terminal(capsys, narrow):
    lines = run(capsys, "list").splitlines()
    assert max(map(len, lines)) <= 72
    rows = [line for line in lines if line.startswith("  ")]
    assert [row.split()[0] for row in rows] == [entry.name for entry in zoo.entries()]
    named = dict(zip([row.split()[0] for row in rows], rows, strict=True))
    assert "4.42 M  ships   CMD on the procedural" in named["shapes32"]
    starts = {row.index(zoo.entry(name).card.what[:9]) for name, row in named.items()}
    assert len(starts) == 1, "one column of sentences"
    of_motion = run(capsys, "list", "--kind", "motion").splitlines()
    assert [line.split()[0] for line in of_motion[1:]] == [entry.name for entry in zoo.entries("motion")]


def test_list_as_json(capsys):
    found = {row["name"]: row for row in json.loads(run(capsys, "list", "--json", "-"))}
    assert list(found) == [entry.name for entry in zoo.entries()]
    row = found["MotionDiT"]
    assert (row["kind"], row["config"]) == ("motion", "configs/motion/dit.yaml")
    assert row["module"] == "cmd_lightning.zoo.motion.dit"
    assert row["ranked"] is bool(zoo.entry("MotionDiT").card.ranking)


def test_list_imports_no_heavy_library():
    """Once the zoo has been listed, and until a file of it changes."""
    zoo.entries()
    script = "import sys; from cmd_lightning.cli import main; main(['zoo', 'list']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.endswith("False\n"), result.stderr


OTHER = {
    "__init__.py": "from their_zoo.motion import Theirs\nfrom cmd_lightning.zoo.motion.dit import MotionDiT\n",
    "motion.py": SOURCE + "class Hidden(_Base): ...\n",
    "frames.py": """
from torch import nn
from cmd_lightning.networks import ContentModel, MotionModel

class Perceptron(MotionModel):
    \"\"\"One layer for all. More of it.\"\"\"

    def __init__(self, latent_spec, condition_dim, width=8):
        super().__init__()
        self.layer = nn.Linear(latent_spec.motion[0], width)

    def forward(self, motion, timestep, content, condition):
        return motion

class Frames(ContentModel):
    \"\"\"Frames.\"\"\"
""",
}


@pytest.fixture
def their_zoo(tmp_path, monkeypatch):
    """A package of someone's in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "their_zoo").mkdir()
    for name, text in OTHER.items():
        (tmp_path / "their_zoo" / name).write_text(text)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_zoo"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "listed"),
    [
        ("their_zoo.frames", {"Perceptron": "motion", "Frames": "content"}),
        ("their_zoo.motion", {"Hidden": "motion", "Mine": "motion", "Theirs": "motion", "Content": "content",
                              "Baseline": "baseline", "factory": "motion"}),
        ("their_zoo", {"Theirs": "motion"}),  # what the package offers, and not what it only uses
    ],
)  # fmt: skip
def test_classes_of_another_package_are_listed(capsys, their_zoo, module, listed):
    own = {entry.name for entry in zoo.entries()}
    found = {row["name"]: row for row in json.loads(run(capsys, "list", "--json", "-", "--import", module))}
    assert {name: row["kind"] for name, row in found.items() if name not in own} == listed
    assert all(found[name]["module"].startswith("their_zoo") for name in listed)
    names = [line.split()[0] for line in run(capsys, "list", "--kind", "motion").splitlines()[1:]]
    assert set(names) >= {name for name, kind in listed.items() if kind == "motion"}


def test_classes_of_another_package_are_shown(capsys, their_zoo):
    text = run(capsys, "show", "Perceptron", "--import", "their_zoo.frames")
    assert "their_zoo.frames.Perceptron" in text
    assert re.search(r"^parameters +72$", text, re.MULTILINE)  # 8 channels of shapes32paper to 8, with bias
    assert "parameters" not in run(capsys, "show", "Frames")  # for which latents is not known
    assert main(["zoo", "show", "Perceptrom"]) == 2
    assert "did you mean Perceptron?" in capsys.readouterr().err


def test_classes_of_another_package_have_a_full_name(capsys, their_zoo):
    name = "their_zoo.frames.Perceptron"
    assert main(["zoo", "show", name]) == 2
    assert capsys.readouterr().err == (
        f"cmd-lightning: {name}: the zoo has no such entry; for your own class, add --import their_zoo.frames\n"
    )
    assert run(capsys, "show", name, "--import", "their_zoo.frames") == run(capsys, "show", "Perceptron")
    assert run(capsys, "show", "cmd_lightning.zoo.motion.dit.MotionDiT") == run(capsys, "show", "MotionDiT")
    assert main(["zoo", "show", "nothing like it"]) == 2
    assert "there are shapes32, " in capsys.readouterr().err


def test_show(capsys, narrow):
    text = run(capsys, "show", "ModelScope")
    assert max(map(len, text.splitlines())) <= 72
    facts = dict(re.findall(r"^(\w[\w ]*?)  +(.*(?:\n +.*)*)", text, re.MULTILINE))
    assert facts["weights"] == "damo-vilab/text-to-video-ms-1.7b (CC BY-NC 4.0)"
    assert facts["class"] == "cmd_lightning.zoo.baselines.modelscope.ModelScope"
    assert facts["parameters"] == f"{zoo.entry('ModelScope').card.parameters:,}"
    assert "unet 1.75 M" in run(capsys, "show", "shapes32")
    whole = json.loads(run(capsys, "show", "shapes32paper", "--json", "-"))
    assert whole["training"]["motion"]["steps"] == 18000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("show motiondit", "motiondit: the zoo has no such entry; did you mean MotionDiT?"),
        ("show AlingedDiT", "did you mean AlignedDiT?"),
        ("show xyzzy", "there are shapes32, shapes32paper, AlignedDiT"),
        ("list --kind motoin", "--kind: invalid choice: 'motoin'"),
        ("lits", "did you mean zoo list?"),
        ("rank MotionDit", "MotionDit: the zoo has no such entry; did you mean MotionDiT?"),
        ("rank LVDM", "MODEL LVDM: this is not a motion model (baseline)"),
        ("rank none.yaml", "MODEL none.yaml: there is no such file"),
        ("rank MotionDiT --config none.yaml", "--config none.yaml: there is no such file"),
        ("rank MotionDiT --seeds 0", "--seeds 0: must be at least 1"),
        ("rank MotionDiT --samples 0", "--samples 0: must be at least 1"),
    ],
)
def test_mistakes_are_reported(capsys, words, message):
    assert main(["zoo", *words.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, ""),
        (344596, "345 k"),
        (999_600, "1.00 M"),
        (14_273_764, "14.3 M"),
        (865.9e6, "866 M"),
        (1.411e9, "1.41 B"),
    ],
)
def test_short(number, text):
    assert short(number) == text


@pytest.mark.parametrize("name", CARDS)
def test_cards(name):
    """Each is an entry's, and what it points at is there."""
    card = zoo.entry(name).card
    assert not card.config or (ROOT / card.config).is_file()
    assert not card.autoencoder or zoo.entry(card.autoencoder).kind == "autoencoder"
    if card.kind != "model":
        assert card.source and bool(card.weights) == bool(card.licence), "whose idea, and the licence of public weights"


GOOD = {"name": "Mine", "kind": "motion", "what": "A model"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parametrs": 3}, "parametrs: a card has no such field; did you mean parameters?"),
        ({"colour": 3}, "colour: a card has no such field; there are name, kind"),
        ({"kind": "movement"}, "kind 'movement': give model or motion or content"),
        ({"kind": "content"}, "kind content: the zoo has a motion Mine there; give motion"),
        ({"name": "Other"}, "name Other: the zoo has a motion Mine there; give Mine"),
        ({"parameters": "many"}, "parameters 'many': give a whole number or a mapping"),
        ({"parameters": {"unet": "many"}}, "give a whole number or a mapping"),
        ({"parameters": True}, "give a whole number or a mapping"),
        ({"seen": ["good", 3]}, "give a list"),
        ({"what": None}, "what None: give a text"),
    ],
)
def test_wrong_cards_are_reported(tmp_path, changes, message):
    path = tmp_path / "Mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises(InputError) as caught:
        Card.read(path, "Mine", "motion")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("kind: [", "it is no YAML"), ("- a", "a card has fields"), ("kind: motion", "name, what")]
)
def test_files_that_are_no_cards(tmp_path, text, message):
    path = tmp_path / "Mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Card.read(path, "Mine", "motion")


OPENED = ("cmd_lightning", "docs", "zoo", "zoo/cards", "zoo/motion", "configs", "configs/motion")
"""Folders that a copy of the checkout has as such, with their texts; all else are links."""


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A checkout of links in which the files of the guide have been written; gives the walk's commands."""
    checkout = tmp_path_factory.mktemp("checkout")
    for folder in ("", *OPENED):
        (checkout / folder).mkdir(exist_ok=True)
        for path in (ROOT / folder).iterdir():
            link = checkout / folder / path.name
            if path.name == "__pycache__":
                continue
            if path.is_symlink():  # cmd_lightning/zoo and the like point to top-level folders
                link.symlink_to(os.readlink(path))
            elif path.suffix in (".md", ".yaml"):  # some are written by the walk
                shutil.copy(path, link)
            elif link.relative_to(checkout).as_posix() not in OPENED:
                link.symlink_to(path)
    walk = (ROOT / "docs/add-a-motion-model.md").read_text().partition("## Two files")[2]
    files = re.findall(r"`([\w/]+\.\w+)`[^`]*:\n\n```\w+\n(.*?)```", walk, re.DOTALL)
    assert [name for name, _ in files] == ["zoo/motion/mlp.py", "configs/motion/mlp.yaml"]
    for name, text in files:
        (checkout / name).write_text(text)
    commands = re.search(r"```sh\n(.*?)```", walk, re.DOTALL)[1].splitlines()
    return checkout, [shlex.split(command) for command in commands]


@pytest.fixture(scope="module")
def follow(python, walked):
    """Runs a command of the walk in its checkout; what it prints."""
    return partial(followed, python, walked[0])


def followed(python, checkout, command, *more):
    program = {"cmd-lightning": ["-m", "cmd_lightning"], "pytest": ["-m", "pytest"], "python": []}[command[0]]
    environment = os.environ | {"PYTHONPATH": str(checkout), "COLUMNS": "100"}
    result = python.run(*program, *command[1:], *more, cwd=checkout, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_walk_lists_the_new_motion_model(follow, walked):
    _, (listed, *_) = walked
    row = next(line for line in follow(listed).splitlines() if line.startswith("  MotionMLP "))
    assert "Residual perceptron over the whole" in row


def test_the_new_motion_model_is_shown_and_may_be_ranked(follow, walked):
    _, (*_, ranked, _) = walked
    assert ranked[:-1] == ["cmd-lightning", "zoo", "rank"]
    script = f"""
from cmd_lightning.cli import main
from cmd_lightning.ranking.candidate import candidate
main(["zoo", "show", "{ranked[-1]}", "--json", "-"])
assert candidate("{ranked[-1]}", None, None).init_args == {{"width": 96, "depth": 2}}
"""
    shown = json.loads(follow(["python", "-c", script]))
    assert shown["config"] == "configs/motion/mlp.yaml"
    motion, content, condition, width = 8 * 16 * 16, 3 * 32 * 32, 64, 96
    linear = [(motion, width), (content, width), (condition, width), (256, width), (width, width), (width, motion)]
    blocks = 2 * (2 * width + 2 * (width + 1) * width)
    assert shown["parameters"] == sum((i + 1) * o for i, o in linear) + 2 * width + blocks


def test_the_walk_tests_the_new_motion_model(follow, walked):
    _, (_, tested, *_) = walked
    message = follow(tested, "-q", "-p", "no:cacheprovider", "-m", "not slow")
    assert int(re.search(r"(\d+) passed", message)[1]) > 3
    assert "skipped" not in message


def test_the_walk_writes_the_table_and_passes_lint(follow, walked):
    checkout, (*_, written) = walked
    assert written == ["python", "-m", "benchmarks.readme"]
    assert "docs/zoo.md" in follow(written).splitlines()
    assert "[`MotionMLP`](../zoo/motion/mlp.py)" in (checkout / "docs/zoo.md").read_text()
    for verb in (["check"], ["format", "--check"]):
        follow(["python", "-m", "ruff", *verb, "zoo/motion/mlp.py", "--no-cache"])


@pytest.mark.slow  # two minutes, of which most make the clips that all models share
def test_the_walk_ranks_the_new_motion_model(follow, walked, tmp_path):
    _, (*_, ranked, _) = walked
    message = follow(ranked, "--seeds", "1", "--samples", "64", "--out", str(tmp_path))
    assert "| **MotionMLP** |" in message
