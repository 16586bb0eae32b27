"""Students of both stages: their parts, their checkpoints, and wrong options."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, LCMScheduler
from lightning import Trainer
from small_fits import Clips, component, mixed, together
from small_fits import fit as fit_small
from torch.utils.data import DataLoader

from cmd_lightning.cli import main
from cmd_lightning.components import ContentDistillation, MotionDistillation
from cmd_lightning.components.checkpoints import KEY, load_stage
from cmd_lightning.components.cmd import compose, load_stages
from cmd_lightning.diffusion import Diffusion, FlowMatching
from cmd_lightning.diffusion.consistency import ContinuousConsistency, LatentConsistency
from cmd_lightning.errors import InputError
from cmd_lightning.networks.lora import LoRA
from cmd_lightning.pipeline import CMDPipeline

STUDENTS = {"content": ContentDistillation, "motion": MotionDistillation}
SHAPE = (3, 5, 8, 12)  # of the tiny stages


class Tiny(Clips):
    """Clips of the shape of the tiny stages."""

    def __getitem__(self, i):
        sample = super().__getitem__(i)
        return sample | {"video": sample["video"][:, :, : SHAPE[2], : SHAPE[3]]}


def fit(model, folder, steps=1, clips=Tiny):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(accelerator="cpu", max_steps=steps, default_root_dir=folder, enable_checkpointing=False, **quiet)
    trainer.fit(model, DataLoader(clips(steps), batch_size=4, collate_fn=together))
    return trainer


@pytest.fixture
def flows(tiny_stages, save_checkpoint):
    """The checkpoints of tiny stages whose content and motion models are of flow matching."""

    def make(condition="label"):
        paths, components = tiny_stages(condition)
        for name in STUDENTS:
            components[name].objective = FlowMatching(2.0)
            save_checkpoint(components[name], paths[name])
        return paths, components

    return make


@pytest.mark.parametrize("stage", STUDENTS)
@pytest.mark.parametrize("kind", ["tiny_stages", "flows"])
@pytest.mark.parametrize("method", [LatentConsistency(25), ContinuousConsistency()])
def test_a_student_is_trained_saved_and_sampled(stage, kind, method, request, tmp_path):
    """Both kinds of teacher, both methods: only the network changes, and it goes where its teacher went."""
    paths, components = request.getfixturevalue(kind)()
    made = STUDENTS[stage](str(paths[stage]), method, guidance=3.0, steps=2)
    teacher = {name: weight.clone() for name, weight in components[stage].state_dict().items()}
    assert all(torch.equal(weight, teacher[name]) for name, weight in made.state_dict().items())
    assert made.state_dict().keys() == teacher.keys()  # neither the teacher nor the autoencoder is in there
    trainer = fit(made, tmp_path)
    changed = {name.partition(".")[0] for name, w in made.state_dict().items() if not torch.equal(w, teacher[name])}
    assert changed == {"network"}
    assert all(torch.equal(weight, teacher[f"network.{name}"]) for name, weight in made.teacher.state_dict().items())

    paths[stage] = tmp_path / "student.ckpt"
    trainer.save_checkpoint(paths[stage])
    stages = load_stages(*(str(path) for path in paths.values()))
    assert stages[stage].sampling == {"steps": 2, "guidance": 1.0}
    pipeline = compose(stages)
    part = {"content": "scheduler", "motion": "motion_scheduler"}[stage]
    assert type(getattr(pipeline, part)) is {"flows": FlowMatchLCMScheduler, "tiny_stages": LCMScheduler}[kind]
    if kind == "tiny_stages":
        expected = 25 if isinstance(method, LatentConsistency) else 50
        assert getattr(pipeline, part).config.original_inference_steps == expected
    assert pipeline.sampling(stage) == (2, 1.0)
    other = {"content": "motion", "motion": "content"}[stage]
    assert pipeline.sampling(other) == {"content": (50, 4.0), "motion": (100, 1.0)}[other]


def test_exported_students_open_elsewhere_and_sample_in_any_few_steps(flows, tmp_path):
    paths, _ = flows("caption")
    for stage, kind in STUDENTS.items():
        trainer = fit(kind(str(paths[stage])), tmp_path)
        trainer.save_checkpoint(paths[stage])
    checkpoints = [str(path) for path in paths.values()]
    assert main(["export", *checkpoints, str(tmp_path / "model"), "--steps", "motion=8"]) == 0
    pipeline = CMDPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.config.steps == {"content": 4, "motion": 8}
    assert pipeline.config.guidance == {"content": 1.0, "motion": 1.0}
    pipeline.set_progress_bar_config(disable=True)
    call = {"output_type": "latent", "num_inference_steps": 1}
    for steps in (1, 2, 4, 8):
        call["num_inference_steps"] = steps
        together_ = pipeline(["a red circle", "left"], seeds=[5, 6], **call)
        alone = pipeline("left", seeds=[6], **call)
        torch.testing.assert_close(alone.frames[0], together_.frames[1], atol=1e-3, rtol=1e-3)

    # A part of the folder keeps its defaults in another model.
    again = tmp_path / "again"
    assert main(["export", str(tmp_path / "model"), str(paths["motion"]), str(again)]) == 0
    assert CMDPipeline.from_pretrained(again).config.steps == {"content": 4, "motion": 4}


def test_a_student_of_an_exported_model_knows_its_guidance(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline("label", guidance={"content": 2.5}, motion_scheduler=FlowMatching(3.0).scheduler())
    pipeline.save_pretrained(tmp_path / "model")
    content, motion = (kind(str(tmp_path / "model")) for kind in STUDENTS.values())
    assert (content.guidance, motion.guidance) == (2.5, 1.0)
    assert isinstance(content.objective, Diffusion) and content.objective.prediction == "epsilon"
    assert motion.objective.shift == 3.0
    assert motion.fps == 7.0
    for name, weight in pipeline.motion_model.state_dict().items():
        assert torch.equal(motion.network.state_dict()[name], weight)


def test_the_teacher_is_guided_and_the_student_is_not(tiny_stages, monkeypatch):
    paths, _ = tiny_stages()
    made = ContentDistillation(str(paths["content"]), guidance=3.0)
    calls = []
    monkeypatch.setattr(made, "denoiser", lambda network, content: lambda *given: calls.append((network, given)))
    condition = made.condition_encoder([0, 1])
    student, teacher = made._pair(condition, None, 2)
    assert (student.scale, student.condition) == (1.0, condition)
    assert (teacher.scale, teacher.condition) == (3.0, condition)
    assert torch.equal(teacher.null.pooled, made.condition_encoder.null(2).pooled)
    student(torch.zeros(2, 3, 8, 12), torch.zeros(2))
    assert calls[0][0] is made.network


@pytest.mark.parametrize("method", [LatentConsistency(20, 0.01), ContinuousConsistency(0.02)])
def test_a_student_comes_back_without_arguments_and_learns_on(flows, tmp_path, method):
    paths, _ = flows()
    made = MotionDistillation(str(paths["motion"]), method, guidance=2.0, steps=8, content_noise=0.2)
    fit(made, tmp_path).save_checkpoint(tmp_path / "student.ckpt")
    opened = MotionDistillation.load_from_checkpoint(tmp_path / "student.ckpt")
    assert (opened.method, opened.guidance, opened.content_noise) == (method, 2.0, 0.2)
    assert opened.sampling_defaults == made.sampling_defaults
    assert all(torch.equal(weight, made.state_dict()[name]) for name, weight in opened.state_dict().items())
    learns = [{n for n, w in model.named_parameters() if w.requires_grad} for model in (made, opened)]
    assert learns[0] == learns[1] and all(name.startswith("network.") for name in learns[0])
    fit(opened, tmp_path)
    with pytest.raises(InputError, match="checkpoint_path: it contains no student"):
        MotionDistillation.load_from_checkpoint(paths["motion"])


def test_validation_measures_how_far_jumps_land_from_the_teachers_trajectory(flows, tmp_path):
    """Zero for a teacher whose paths are straight lines to one sample, and what it was moved by for its student."""
    paths, _ = flows(None)
    made = ContentDistillation(str(paths["content"]), guidance=1.0)
    target = 0.3

    def straight(shift):
        def predict(noisy, timestep, condition):
            return (noisy - target - shift) / (timestep / 1000).view(-1, 1, 1, 1)

        return predict

    for shift in (0.0, 0.5):
        made.denoiser = lambda network, content, shift=shift: straight(0.0 if network is made.teacher else shift)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
        [found] = trainer.validate(made, DataLoader(Tiny(1), batch_size=2, collate_fn=together), verbose=False)
        assert len(found) == 5 and "val/loss_at_1000" in found
        for value in found.values():
            assert value == pytest.approx(shift**2, abs=1e-6)


def test_gradients_in_half_precision(tmp_path):
    """As in single precision: the weights that autocast casts for the calls without gradients cut none off."""
    plugins = {"full": [], "half": [mixed("bf16-mixed")]}
    found = {}
    for name, given in plugins.items():
        [step] = fit_small(component("motion student, captions"), tmp_path, steps=1, plugins=given)
        found[name] = torch.cat([gradient.flatten() for gradient in step["gradients"].values()])
    assert torch.cosine_similarity(found["half"], found["full"], dim=0) > 0.98
    assert 0.9 < found["half"].norm() / found["full"].norm() < 1.1


def test_wrong_teachers_are_reported(flows, tmp_path, tiny_pipeline, tiny_autoencoder, save_checkpoint):
    paths, components = flows()
    with pytest.raises(InputError, match=r"model.teacher .*motion.ckpt: this checkpoint holds the motion stage, not"):
        ContentDistillation(str(paths["motion"]))
    with pytest.raises(InputError, match=r"model.teacher .*nowhere.ckpt: there is no such file"):
        MotionDistillation(str(tmp_path / "nowhere.ckpt"))

    student = save_checkpoint(MotionDistillation(str(paths["motion"])), tmp_path / "student.ckpt")
    with pytest.raises(InputError, match=r"student.ckpt: it is sampled by FlowMatchLCMScheduler, as students are"):
        MotionDistillation(str(student))

    odd = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    tiny_pipeline("label", motion_scheduler=odd).save_pretrained(tmp_path / "odd")
    with pytest.raises(InputError, match=r"model.teacher .*odd: scheduler FlowMatchEulerDiscreteScheduler: it has nei"):
        MotionDistillation(str(tmp_path / "odd"))
    ContentDistillation(str(tmp_path / "odd"))  # the scheduler of the other stage does not matter

    with pytest.raises(InputError, match=r"model.lora: it is for Stable Diffusion's U-Net, .* has a MotionDiT"):
        MotionDistillation(str(paths["motion"]), lora=LoRA(rank=2))
    with pytest.raises(InputError, match=r"model.lora: adapters are stored without .*`export` the teacher first"):
        ContentDistillation(str(paths["content"]), lora=LoRA(rank=2))

    other = load_stage(paths["autoencoder"], "autoencoder", "m").parts["network"]
    torch.nn.init.normal_(next(other.parameters()))
    components["autoencoder"].network.load_state_dict(other.state_dict())
    save_checkpoint(components["autoencoder"], paths["autoencoder"])
    with pytest.raises(InputError, match=r"its autoencoder .* has other weights than in training"):
        MotionDistillation(str(paths["motion"]))


def test_clips_of_another_shape_are_reported(flows, tmp_path):
    paths, _ = flows()
    with pytest.raises(InputError, match=r"data: videos of 5 frames, 16x24, but the content stage is built for 3 cha"):
        fit(ContentDistillation(str(paths["content"])), tmp_path, clips=Clips)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "model.steps 0: must be at least 1"),
        ({"guidance": float("nan")}, "model.guidance nan: give a finite number"),
        ({"method": LatentConsistency(30)}, "model.method.intervals 30: the teacher's schedule has 1000 timesteps"),
        ({"steps": 51}, "model.steps 51: the student is sampled in 1 to 50"),
    ],
)
def test_wrong_options_are_reported(tiny_stages, wrong, message):
    paths, _ = tiny_stages()
    with pytest.raises(InputError, match=message):
        ContentDistillation(str(paths["content"]), **wrong)


def test_a_run_resumes_under_its_own_teacher_only(tiny_stages, save_checkpoint, tmp_path):
    paths, components = tiny_stages()
    made = MotionDistillation(str(paths["motion"]))
    checkpoint = {"state_dict": made.state_dict()}
    made.on_save_checkpoint(checkpoint)
    assert checkpoint[KEY]["stage"] == "motion"
    made.on_load_checkpoint(checkpoint)
    torch.nn.init.normal_(components["motion"].network.head.weight)
    other = MotionDistillation(str(save_checkpoint(components["motion"], paths["motion"])))
    with pytest.raises(InputError, match=r"model.teacher: the checkpoint's student has another teacher"):
        other.on_load_checkpoint(checkpoint)
    plain = {"state_dict": components["motion"].state_dict()}
    components["motion"].on_save_checkpoint(plain)
    with pytest.raises(InputError, match=r"model.teacher: the checkpoint's student has another teacher"):
        made.on_load_checkpoint(plain)
