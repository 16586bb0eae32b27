import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import cmd_lightning
from cmd_lightning import zoo
from cmd_lightning.cli import TRAINING, VERBS, main, spelling
from cmd_lightning.commands.completion import parser
from cmd_lightning.errors import InputError

CONFIGS = Path(cmd_lightning.__path__[0], "configs")


@pytest.fixture
def fails(capsys):
    """Runs a command line that must end with code 2 and a single line on standard error, which is given back."""

    def run(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("cmd-lightning: ")
        assert captured.out == ""
        return lines[0]

    return run


@pytest.fixture
def model(tiny_pipeline, tmp_path):
    """Saves a small model: its folder."""

    def save(condition):
        tiny_pipeline(condition).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def test_help_of_every_verb_needs_no_heavy_library():
    """One fresh process for all, since this one has imported torch long ago."""
    script = f"""
import sys
from cmd_lightning.cli import main
heavy = ("torch", "lightning", "diffusers", "transformers", "numpy", "av")
for verb in {sorted({*VERBS, *(v.split()[0] for v in VERBS)} | {""})!r}:
    assert main([*verb.split(), "--help"]) == 0, verb
    loaded = [name for name in heavy if name in sys.modules]
    assert not loaded, (verb, loaded)
"""
    root = Path(cmd_lightning.__path__[0]).parent
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr
    for verb in VERBS:
        assert verb.split()[-1] in result.stdout
    assert "(default: outputs/generate)" in result.stdout


def test_mistakes_are_found_before_torch_is_loaded(tmp_path):
    """That takes seconds. One process for all, as above."""
    words = [
        *("generate shapes33 --prompt a", "generate shapes32 --prompt a --steps 0", "generate shapes32"),
        *("generate shapes32 --prompt a --steps contents=3", "generate shapes32 --prompt a --guidance nan"),
        *("generate shapes32 --prompts none.txt", "generate shapes32 --prompt a --image none.png", "generate empty"),
        *("generate shapes32 --prompt a --lora none", "generate shapes32 --prompt a b --image c.png d.png e.png"),
        *("evaluate --real none --fake empty --metrics psnr", "evaluate --real empty --fake empty --metrics fvdd"),
        *("evaluate --real empty --fake empty --metrics psnr --frames 0", "evaluate --fake empty --metrics fvd"),
        *("reconstruct shapes33 a.mp4", "reconstruct shapes32 none.mp4", "reconstruct shapes32 c.png --stride 0"),
        *("export a.ckpt out", "export c.png c.png out", "export c.png c.png c.png out --steps 0"),
        *("export c.png c.png c.png empty/..", "zoo show nothing", "zoo rank nothing", "zoo rank none.yaml"),
        *("zoo rank MotionDiT --seeds 0", "shards encode none.tar --out x --vae a/b", "zoo list --kind none"),
        "shards encode empty --out x --autoencoder none.ckpt",
    ]
    (tmp_path / "empty").mkdir()
    for name in "cde":
        (tmp_path / f"{name}.png").touch()
    zoo.entries()  # the list of the zoo is in its cache now
    script = f"""
import sys
from cmd_lightning.cli import main
for words in {words!r}:
    assert main(words.split()) == 2, words
    assert "torch" not in sys.modules, words
"""
    environment = os.environ | {"PYTHONPATH": str(Path(cmd_lightning.__path__[0]).parent)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    lines = run.stderr.splitlines()
    assert len(lines) == len(words), run.stderr
    assert all(line.startswith("cmd-lightning: ") for line in lines)


def test_completion_knows_every_command_and_option():
    """Of the parser that shtab reads."""
    whole = parser()
    assert whole.parse_args(["fit", "-c", "a.yaml"]).config == "a.yaml"
    for words, message in (
        ("generate shapes32 --prompt a --steps 3", {"prompt": ["a"], "steps": {"content": 3, "motion": 3}}),
        ("zoo show MotionDiT", {"name": "MotionDiT"}),
        ("shards pack --videos a --out b", {"videos": "a", "out": "b"}),
    ):
        assert vars(whole.parse_args(words.split())).items() >= message.items()
    text = whole.format_help()
    assert all(verb.split()[0] in text for verb in (*VERBS, *TRAINING))


def test_overview_and_version(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert all(f"  {verb} " in text for verb in (*VERBS, "fit", "validate", "test", "predict"))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"cmd-lightning {cmd_lightning.__version__}"


def test_python_m_is_the_same_program(tmp_path):
    root = Path(cmd_lightning.__path__[0]).parent
    command = [sys.executable, "-m", "cmd_lightning", "generat"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "cmd-lightning: generat: there is no such command; did you mean generate?\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generat x", "generat: there is no such command; did you mean generate?"),
        ("fitt -c x", "did you mean fit?"),
        ("shards pck", "shards pck: there is no such command; did you mean shards pack?"),
        ("xyzzy", "xyzzy: there is no such command; see `cmd-lightning --help`"),
        ("generate m --promt hello", "--promt: there is no such option; did you mean --prompt?"),
        ("generate m --steps ten --prompt hello", "--steps ten: give a whole number"),
        ("generate m --steps content=ten --prompt hello", "--steps"),
        ("generate m --num 0 --prompt hello", "num 0"),
        ("generate m --prompt a --class 1", "--prompt and --class: give one of the two"),
        ("generate no/such/folder --prompt hello", "MODEL no/such/folder: there is no such folder"),
        ("generate", "MODEL"),
        ("reconstruct no/such/folder clip.mp4", "MODEL no/such/folder: there is no such folder"),
        ("export no.ckpt no/out", "CHECKPOINTS no.ckpt: there is no such file"),
        ("export a.ckpt b.ckpt no.ckpt no/out", "CHECKPOINTS a.ckpt: there is no such file"),
        ("--import no_such_module generate m", "--import no_such_module"),
        ("fit -c no/such/config.yaml", "no/such/config.yaml"),
    ],
)
def test_mistakes_are_reported_on_one_line(fails, words, message):
    assert message in fails(*words.split())


def test_folder_that_is_no_model(fails, tmp_path):
    assert f"{tmp_path}: no model_index.json in this folder" in fails("generate", tmp_path, "--prompt", "a")


@pytest.mark.parametrize("name", ["model", "out", "real"])
def test_folders_called_like_an_argument_keep_their_names(fails, tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert f"MODEL {name}: no model_index.json in this folder" in fails("generate", name, "--prompt", "a")
    message = fails("evaluate", "--real", name, "--fake", name, "--metrics", "frechet:shapes")
    assert f": {name}: holds no usable clips" in message


def test_files_of_prompts(fails, tmp_path):
    assert "there is no such file" in fails("generate", tmp_path, "--prompts", tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n  \n")
    assert "the file has no caption" in fails("generate", tmp_path, "--prompts", tmp_path / "empty.txt")


def test_images_that_cannot_be_read(fails, model, tmp_path):
    folder = model(None)
    (tmp_path / "noise.png").write_bytes(b"no image")
    for name in ("noise.png", "none.png"):
        message = "there is no such file" if name == "none.png" else "it cannot be read as an image"
        assert f"--image {tmp_path / name}: {message}" in fails("generate", folder, "--image", tmp_path / name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--prompt hello", "conditioned on labels: give class ids (--class), not a caption"),
        ("", "this model needs a condition; give class ids (--class)"),
        ("--class 9", "class 9: the model knows classes 0 to 3"),
        ("--class 1 --steps 0", "--steps 0: must be at least 1"),
        ("--class 1 --steps 1001", "--steps 1001: the content model takes 1 to 1000"),
        ("--class 1 --steps contents=3", "no stage 'contents'"),
        ("--class 1 --guidance move=3", "no stage 'move'"),
    ],
)
def test_what_the_model_does_not_take_is_reported(fails, model, tmp_path, words, message):
    assert message in fails("generate", model("label"), "--out", tmp_path / "out", *words.split())


def test_checkpoints_that_do_not_fit_are_reported(fails, tiny_stages, tmp_path):
    paths, _ = tiny_stages()
    motion = paths["motion"]
    message = fails("export", paths["autoencoder"], motion, motion, tmp_path / "out")
    assert "give one each of autoencoder, content and motion" in message
    assert "there is no such file" in fails("export", *paths.values(), tmp_path / "none.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_rejected_and_not_run(fails, tiny_stages, tmp_path):
    paths, _ = tiny_stages()
    evil, witness = tmp_path / "evil.ckpt", tmp_path / "ran"
    for write in (
        lambda content: torch.save(content, evil),
        lambda content: evil.write_bytes(pickle.dumps(content)),
    ):
        write({"cmd": {"stage": "motion"}, "state_dict": Bomb(witness)})
        message = fails("export", paths["autoencoder"], paths["content"], evil, tmp_path / "out")
        assert f"{evil}: it cannot be read as a checkpoint" in message
        assert not witness.exists()
    pickle.loads(pickle.dumps(Bomb(witness)))
    assert witness.exists()  # the bomb is live


def fit_config(tmp_path, name, change):
    config = yaml.safe_load((CONFIGS / "shapes32" / name).read_text())
    change(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "autoencoder.yaml",
            lambda c: c["model"].update(class_path="VideoAutoencodr"),
            "class_path VideoAutoencodr: there is no such class; did you mean VideoAutoencoder?",
        ),
        (
            "autoencoder.yaml",
            lambda c: c["model"]["init_args"]["network"].update(class_path="CMDAutoencodr"),
            "class_path CMDAutoencodr: there is no such class; did you mean CMDAutoencoder?",
        ),
        (
            "motion.yaml",
            lambda c: c["model"]["init_args"]["network"].update(class_path="MotionDit"),
            "class_path MotionDit: there is no such class; did you mean MotionDiT?",
        ),
        (
            "autoencoder.yaml",
            lambda c: c["data"].update(class_path="WebVidDataModul"),
            "class_path WebVidDataModul: there is no such class; did you mean WebVidDataModule?",
        ),
        (
            "autoencoder.yaml",
            lambda c: c["trainer"]["callbacks"][0].update(class_path="EMAA"),
            "class_path EMAA: there is no such class; did you mean EMA?",
        ),
        (
            "autoencoder.yaml",
            lambda c: c["model"]["init_args"]["network"]["init_args"].update(widht=3),
            "widht: there is no such option; did you mean width?",
        ),
        (
            "autoencoder.yaml",
            lambda c: c["data"]["init_args"].update(num_frame=3),
            "num_frame: there is no such option; did you mean num_frames?",
        ),
        ("autoencoder.yaml", lambda c: c["trainer"].update(max_stepz=3), "did you mean trainer.max_steps?"),
        (
            "autoencoder.yaml",
            lambda c: c["data"]["init_args"].update(batch_size="few"),
            "batch_size few: expected 'int'",
        ),
        (
            "motion.yaml",
            lambda c: c["model"]["init_args"].update(autoencoder="no/such.ckpt"),
            "model.autoencoder no/such.ckpt: there is no such file",
        ),
    ],
)
def test_mistakes_in_a_config_are_reported(fails, tmp_path, monkeypatch, name, change, message):
    config = fit_config(tmp_path, name, change)
    monkeypatch.chdir(tmp_path)
    assert message in fails("fit", "-c", config, "--seed_everything=false")


@pytest.mark.parametrize(
    ("message", "spelled"),
    [
        ("num_frames 0: must be at least 1", "--num-frames 0: must be at least 1"),
        ("`num_frames`, `size`: give `size` alone", "--num-frames, --size: give --size alone"),
        ("`model` and `class_labels`: give one", "MODEL and --class: give one"),
        ("a/size: `export` it, `import own.parts` first", "a/size: `export` it, --import own.parts first"),
        ("size 3, num_frames 0: too small", "--size 3, --num-frames 0: too small"),
        ("model: a folder", "model: a folder"),
    ],
)
def test_arguments_are_spelled_as_options(message, spelled):
    options = {"num_frames": "--num-frames", "size": "--size", "model": "MODEL", "class_labels": "--class"}
    with pytest.raises(InputError) as caught, spelling(options):
        raise InputError(message)
    assert str(caught.value) == spelled


def test_third_party_module_is_imported_on_request(capsys, tmp_path, monkeypatch):
    (tmp_path / "own_classes.py").write_text("print('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        assert main(["--version", "--import", "own_classes"]) == 0
        assert capsys.readouterr().out.splitlines()[0] == "imported"
    finally:
        sys.modules.pop("own_classes", None)


def test_interrupted(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("cmd_lightning.cli.dispatch", interrupt)
    assert main(["generate"]) == 130
    assert capsys.readouterr().err == "cmd-lightning: interrupted\n"


def test_errors_of_the_program_are_not_hidden(monkeypatch):
    def fail(arguments):
        raise ZeroDivisionError(json)

    monkeypatch.setattr("cmd_lightning.cli.dispatch", fail)
    with pytest.raises(ZeroDivisionError):
        main(["generate"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_an_error(unbuffered):
    if not os.path.exists("/dev/full"):
        pytest.skip("no such device here")
    root = Path(cmd_lightning.__path__[0]).parent
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cmd_lightning", "--version"]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=root, env=environment)
    assert result.returncode == 2
    assert result.stderr.endswith(": No space left on device\n") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_ends_the_command_without_a_word(unbuffered):
    end, start = os.pipe()
    os.close(end)  # what `| head -1` does once it has its line
    root = Path(cmd_lightning.__path__[0]).parent
    command = [sys.executable, "-m", "cmd_lightning", "zoo", "list"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(command, stdout=start, stderr=subprocess.PIPE, text=True, cwd=root, env=environment)
    os.close(start)
    assert (result.returncode, result.stderr) == (1, "")
