"""Retraining in short calls: what each starts, and that together they do what one fit does."""

import json
import os
import signal
import sys

import pytest
import torch
import yaml

from benchmarks.shapes import retrain


@pytest.fixture(autouse=True)
def same_handler():
    """The program handles SIGTERM; other tests do not want that."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


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
    """Commands that would run; a fit does four more steps in a minute."""
    made = []

    class Fit:
        def __init__(self, command, env):
            made.append(command)
            stage = command[5].split("/")[-1].removesuffix(".yaml")
            done = retrain.Progress("tiny", stage)
            save(config, stage, min(10, done.steps + 4), done.seconds + 60)

        def wait(self):
            return 0

        def terminate(self):
            pass

    monkeypatch.setattr(retrain.subprocess, "Popen", Fit)
    monkeypatch.setattr(retrain, "export", lambda name: made.append(["export", name]) or 0)
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny", "--minutes", "8"])
    return made


def stages_of(commands):
    return [command[5].split("/")[-1].removesuffix(".yaml") if len(command) > 2 else command[0] for command in commands]


def test_calls_go_on_until_all_is_done(calls):
    for _ in range(4):
        assert retrain.main() == 0
    # Three calls of four steps finish the autoencoder; the third has time for the next two, side by side.
    assert stages_of(calls) == ["autoencoder"] * 3 + ["content", "motion"] * 2
    assert retrain.main() == 0
    assert stages_of(calls)[-3:] == ["content", "motion", "export"]
    assert all(command[6:8] == ["--ckpt_path", "last"] for command in calls if len(command) > 2)


def test_time_of_earlier_calls_is_added(calls, config):
    """Lightning's max_time counts the training time of the whole fit, earlier calls included."""
    save(config, "autoencoder", 4, 1000.0)
    retrain.main()
    limit = json.loads(calls[0][calls[0].index("--trainer.max_time") + 1])["seconds"]
    assert 1000 + 8 * 60 - 5 <= limit <= 1000 + 8 * 60
    assert retrain.Progress("tiny", "autoencoder").seconds == 1060


@pytest.mark.parametrize("code", [2, -9])
def test_a_failed_fit_is_the_result(config, monkeypatch, code):
    class Fit:
        def __init__(self, command, env):
            self.stage = command[5].split("/")[-1]

        def wait(self):
            return code if self.stage == "motion.yaml" else 0

        def terminate(self):
            pass

    monkeypatch.setattr(retrain.subprocess, "Popen", Fit)
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny"])
    save(config, "autoencoder", 10, 1.0)
    assert retrain.main() == abs(code)


def test_the_end_of_the_program_is_that_of_its_fits(config, monkeypatch):
    ended = []

    class Fit:
        def __init__(self, command, env):
            self.stage = command[5].split("/")[-1]

        def wait(self):
            os.kill(os.getpid(), signal.SIGTERM)

        def terminate(self):
            ended.append(self.stage)

    monkeypatch.setattr(retrain.subprocess, "Popen", Fit)
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny"])
    save(config, "autoencoder", 10, 1.0)
    with pytest.raises(SystemExit):
        retrain.main()
    assert ended == ["content.yaml", "motion.yaml"]


def test_the_configs_say_how_many_steps(config, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny", "--", "--trainer.max_steps", "4"])
    with pytest.raises(SystemExit):
        retrain.main()
    assert "the configs say when a stage is done" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_call(tmp_path, monkeypatch, capfd):
    """The real configs made tiny: every stage is fitted and all are exported."""
    import cmd_lightning

    source = tmp_path.__class__(cmd_lightning.__path__[0]).parent / "configs" / "shapes32"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(source.parents[1]))
    tiny = {"autoencoder": {"width": 16}, "content": {"depth": 1}, "motion": {"depth": 1}}
    for stage, changes in tiny.items():
        config = yaml.safe_load((source / f"{stage}.yaml").read_text().replace("shapes32", "tiny"))
        config["model"]["init_args"]["network"]["init_args"] |= changes
        config["data"]["init_args"] |= {"size": 16, "val_clips": 2}
        config["trainer"] |= {"max_steps": 3, "val_check_interval": 3, "accelerator": "cpu", "devices": 1}
        path = tmp_path / "configs" / "tiny" / f"{stage}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["retrain", "tiny", "--minutes", "3", "--threads", "1"])
    assert retrain.main() == 0, capfd.readouterr().err
    assert (tmp_path / "outputs" / "tiny" / "model" / "model_index.json").is_file()
    assert retrain.Progress("tiny", "motion").finished
    assert retrain.Progress("tiny", "motion").seconds > 0
