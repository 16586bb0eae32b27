"""Retraining in short calls: what each starts, and that together they equal one training run."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from benchmarks import retrain
from cmd_lightning import zoo


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A folder of configs named "tiny", every stage 10 steps long, as the working folder has it."""
    monkeypatch.chdir(tmp_path)
    for stages in retrain.ROUNDS:
        for stage in stages:
            path = tmp_path / "configs" / "tiny" / f"{stage}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump({"trainer": {"max_steps": 10}}))
    return tmp_path


def save(folder, stage, steps, seconds):
    path = folder / "outputs" / "tiny" / stage / "last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": steps, "callbacks": {"Timer": {"time_elapsed": {"train": seconds}}}}, path)


@pytest.fixture
def calls(config, monkeypatch):
    """Stages that would be trained, with their seconds; a training does four more steps in a minute."""
    made = []

    def fit(stages, options, threads):
        made.append({stage.name: seconds for stage, seconds in stages.items()})
        for stage in stages:
            steps, seconds = stage.trained
            save(config, stage.name, min(10, steps + 4), seconds + 60)

    monkeypatch.setattr(retrain, "fit", fit)
    monkeypatch.setattr(retrain, "export", lambda name: made.append({"export": name}) or 0)
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny", "--minutes", "8"])
    return made


def test_calls_continue_until_all_is_done(calls):
    for _ in range(4):
        assert retrain.main() == 0
    # Three calls of four steps finish the autoencoder; the third has time for the next two, side by side.
    assert [list(call) for call in calls] == [["autoencoder"]] * 3 + [["content", "motion"]] * 2
    assert all(8 * 60 - 5 <= seconds <= 8 * 60 for call in calls for seconds in call.values())
    assert retrain.main() == 0
    assert [list(call) for call in calls[5:]] == [["content", "motion"], ["export"]]


def test_a_model_is_exported_as_it_ships(monkeypatch, tmp_path):
    """With the steps and the guidance that the index of the shipped folder has."""
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(retrain.subprocess, "run", lambda words: calls.append(words) or SimpleNamespace(returncode=0))
    for name in zoo.models():
        assert retrain.export(name) == 0
        words = calls[-1][calls[-1].index("--half") + 1 :]
        index = json.loads((zoo.WEIGHTS / name / "model_index.json").read_text())
        assert words[::2] == ["--steps", "--guidance"]
        assert index["steps"] == {"content": int(words[1]), "motion": int(words[1])}
        scales = [scale.split("=") for scale in words[3].split(",")]
        assert index["guidance"] == {stage: float(scale) for stage, scale in scales}


def test_the_configs_say_how_many_steps(config, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny", "--", "--trainer.max_steps", "4"])
    with pytest.raises(SystemExit):
        retrain.main()
    assert "the configs say when a stage is done" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_call(tmp_path, monkeypatch, capfd):
    """The real configs made tiny: every stage is fitted and all are exported."""
    import cmd_lightning

    source = tmp_path.__class__(cmd_lightning.__path__[0]).parent / "configs" / "shapes32paper"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(source.parents[1]))
    tiny = {"autoencoder": {"width": 16}, "content": {"depth": 1}, "motion": {"depth": 1}}
    for stage, changes in tiny.items():
        config = yaml.safe_load((source / f"{stage}.yaml").read_text().replace("shapes32paper", "tiny"))
        config["model"]["init_args"]["network"]["init_args"] |= changes
        config["data"]["init_args"] |= {"size": 16, "val_clips": 2}
        config["trainer"] |= {"max_steps": 3, "val_check_interval": 3, "accelerator": "cpu", "devices": 1}
        path = tmp_path / "configs" / "tiny" / f"{stage}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny", "--minutes", "3", "--threads", "1"])
    assert retrain.main() == 0, capfd.readouterr().err
    assert (tmp_path / "outputs" / "tiny" / "model" / "model_index.json").is_file()
    motion = retrain.stage_of("tiny", "motion").trained
    assert motion.steps == 3 and motion.seconds > 0
