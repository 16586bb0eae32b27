"""Uses of the two latents: given, changed, kept, transferred, interpolated, continued and partly edited."""

import numpy as np
import pytest
import torch
from PIL import Image

from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.pipeline.longer import seam_ratio
from cmd_lightning.video_encoding import write_video

CAPTIONS = ["a red circle moves left", "a blue square"]
TENSOR = {"output_type": "pt"}


def noise_clip(frames=5, height=8, width=12, seed=0):
    """A clip (T, 3, H, W), uint8."""
    return torch.randint(256, (frames, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


def images_of(clip):
    return [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip]


@pytest.fixture
def clips():
    return noise_clip(seed=1), noise_clip(seed=2)


@pytest.fixture
def first_frame(captioned, tiny_autoencoder):
    """A pipeline of captions whose content frame is the first frame."""
    pipeline = captioned()
    pipeline.register_modules(autoencoder=tiny_autoencoder(weights="first"))
    return pipeline


def of(pipeline, *clips):
    """Their latents, from the autoencoder itself."""
    video = torch.stack([clip.transpose(0, 1) for clip in clips]).float() / 255 * 2 - 1
    with torch.no_grad():
        return pipeline.autoencoder.encode(video)


def test_clips_of_all_kinds_are_the_same(captioned, clips, tmp_path):
    pipeline, (clip, _) = captioned(), clips
    content, motion = of(pipeline, clip)
    for i, image in enumerate(images_of(clip)):
        (tmp_path / "frames").mkdir(exist_ok=True)
        image.save(tmp_path / "frames" / f"{i}.png")
    kinds = (
        *(clip, clip.float() / 255, clip[None], [clip], clip.permute(0, 2, 3, 1).numpy()),
        *(images_of(clip), [images_of(clip)], tmp_path / "frames", str(tmp_path / "frames")),
    )
    for kind in kinds:
        found = pipeline.encode_clips(kind)
        torch.testing.assert_close(found[0], content, atol=1e-6, rtol=0)
        torch.testing.assert_close(found[1], motion, atol=1e-5, rtol=1e-5)
    both = pipeline.encode_clips([clip, images_of(clips[1])])
    torch.testing.assert_close(both[0], of(pipeline, *clips)[0], atol=1e-5, rtol=0)


def test_an_image_is_a_clip_that_stands_still(captioned, clips, tmp_path):
    pipeline, image = captioned(), images_of(clips[0])[0]
    image.save(tmp_path / "image.png")
    content = of(pipeline, clips[0][:1].expand(5, -1, -1, -1))[0]
    for kind in (image, tmp_path / "image.png", np.asarray(image), clips[0][0]):
        torch.testing.assert_close(pipeline.encode_clips(kind)[0], content, atol=1e-5, rtol=0)


def test_clips_are_resized_and_shortened_with_a_notice(captioned, tmp_path):
    pipeline, clip = captioned(), noise_clip(7, 20, 90)
    write_video(tmp_path / "clip.mp4", clip.transpose(0, 1), 8.0)
    with pytest.warns(InputWarning) as reported:
        content, _ = pipeline.encode_clips(tmp_path / "clip.mp4")
    assert content.shape == (1, 3, 8, 12)
    assert {str(warning.message) for warning in reported} == {
        "clip of 7 frames: the first 5 are used",
        "clip of 90x20 pixels: resized and cropped to the model's 12x8",
    }
    with pytest.raises(InputError, match="`clips`: a clip of 4 frames, the model needs 5"):
        pipeline.encode_clips(clip, stride=2)


def test_given_latents_stay_as_they_are(captioned, clips, few):
    """Without a strength neither network is called."""
    pipeline = captioned()
    content, motion = of(pipeline, clips[0])
    pipeline.unet = pipeline.motion_model = None
    output = pipeline(CAPTIONS[0], content=content, motion=motion, output_type="latent", **few)
    assert torch.equal(output.content, content)
    assert torch.equal(output.frames, motion)
    video = pipeline(CAPTIONS[0], video=clips[0], strength=0, output_type="latent", **few)
    torch.testing.assert_close(video.content, content)
    torch.testing.assert_close(video.frames, motion)


def test_a_strength_of_one_generates_from_scratch(captioned, clips, few):
    pipeline = captioned()
    plain = pipeline(CAPTIONS, seeds=[5, 6], output_type="latent", **few)
    found = pipeline(CAPTIONS, video=[*clips], strength=1, seeds=[5, 6], output_type="latent", **few)
    torch.testing.assert_close(found.content, plain.content, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.frames, plain.frames, atol=1e-4, rtol=1e-4)


def test_a_strength_is_a_share_of_the_steps_of_its_stage(captioned, clips):
    pipeline, seen = captioned(), []
    content, motion = of(pipeline, clips[0])

    def count(running, step, timestep, tensors):
        seen.append((running.stage, step, running.num_timesteps))
        return {}

    strength = {"content": 0.5, "motion": 0.1}
    call = {"num_inference_steps": 10, "strength": strength, "output_type": "latent", "callback_on_step_end": count}
    output = pipeline(CAPTIONS[0], video=clips[0], **call)
    assert seen == [*(("content", step, 5) for step in range(5)), ("motion", 0, 1)]
    assert (output.content - content).abs().mean() > 1e-2
    assert (output.frames - motion).abs().mean() > 1e-3


def test_kept_places_are_bit_exact(captioned, clips, few):
    pipeline = captioned()
    content, motion = of(pipeline, *clips)
    keep = {"content": torch.rand(1, 8, 12) < 0.5, "motion": torch.rand(2, 1, 5, 1) < 0.5}
    call = {"content": content, "motion": motion, "keep": keep, "seeds": [5, 6], "output_type": "latent", **few}
    output = pipeline(CAPTIONS, **call)
    for found, given, kept in ((output.content, content, keep["content"]), (output.frames, motion, keep["motion"])):
        kept = kept.expand_as(given)
        assert torch.equal(found[kept], given[kept])
        assert (found[~kept] - given[~kept]).abs().min() > 0
    alone = pipeline(
        CAPTIONS[1],
        content=content[1:],
        motion=motion[1:],
        keep={"content": keep["content"], "motion": keep["motion"][1:]},
        seeds=[6],
        output_type="latent",
        **few,
    )
    torch.testing.assert_close(alone.frames, output.frames[1:], atol=1e-4, rtol=1e-4)


def test_a_content_gets_new_motion(captioned, clips, few):
    pipeline = captioned()
    first, again, other = (
        pipeline.transfer(content_from=clips[0], prompt=CAPTIONS[0], seeds=[s], output_type="latent", **few)
        for s in (5, 5, 6)
    )
    content, motion = of(pipeline, clips[0])
    torch.testing.assert_close(first.content, content)
    assert torch.equal(first.frames, again.frames)
    assert (first.frames - motion).abs().mean() > 1e-2
    assert (first.frames - other.frames).abs().mean() > 1e-2


def test_a_motion_gets_another_content(captioned, clips, few):
    pipeline = captioned()
    contents, motions = of(pipeline, *clips)
    call = {"prompt": CAPTIONS[0], "seeds": [5], "output_type": "latent", **few}
    both = pipeline.transfer(clips[0], clips[1], strength=0, **call)
    torch.testing.assert_close(both.content, contents[:1])
    torch.testing.assert_close(both.frames, motions[1:])
    changed = pipeline.transfer(clips[0], clips[1], strength=0.5, **call)
    assert (changed.frames - motions[1:]).abs().mean() > 1e-3
    generated = pipeline.transfer(motion_from=clips[1], strength=0, **call)
    assert torch.equal(generated.content, pipeline(**call).content)
    torch.testing.assert_close(generated.frames, motions[1:])


@pytest.mark.parametrize("stage", ["content", "motion"])
def test_between_two_clips(captioned, clips, few, stage):
    pipeline = captioned()
    contents, motions = of(pipeline, *clips)
    output = pipeline.interpolate(
        *clips, (CAPTIONS[0], CAPTIONS[1]), stage=stage, weights=(0, 1 / 3, 2 / 3, 1), output_type="latent", **few
    )
    assert output.frames.shape == (4, *pipeline.latent_spec.motion)
    found, ends = (output.content, contents) if stage == "content" else (output.frames, motions)
    torch.testing.assert_close(found[[0, -1]], ends)
    assert (found[1] - torch.lerp(*ends, 1 / 3)).abs().mean() > 1e-3
    if stage == "motion":
        torch.testing.assert_close(output.content, contents[:1].expand(4, -1, -1, -1))
    mixed = pipeline.interpolate(
        *clips, CAPTIONS[0], stage=stage, weights=(0, 0.5, 1), strength=0, output_type="latent", **few
    )
    found = mixed.content if stage == "content" else mixed.frames
    torch.testing.assert_close(found[1], ends.mean(0))


def test_videos_between_have_the_caption_of_the_nearer_clip(captioned, clips, few):
    pipeline, seen = captioned(), []
    original = pipeline.text_encoder.forward
    pipeline.text_encoder.forward = lambda values: seen.append(list(values)) or original(values)
    pipeline.interpolate(*clips, ("left", "right"), **few)
    assert seen[0] == ["left", "left", "right", "right", "right"]


def test_a_clip_is_continued(captioned, clips, few):
    """Of the given frames nothing changes; a video depends on its own seed, and frames are as many as asked for."""
    pipeline = captioned()
    output = pipeline.extend([*clips], 11, CAPTIONS, overlap=2, seeds=[5, 6], **TENSOR, **few)
    assert output.frames.shape == (2, 11, 3, 8, 12)
    assert torch.equal(output.frames[:, :5], torch.stack(clips).float() / 255)
    assert output.seeds == [5, 6]
    alone = pipeline.extend(clips[1], 11, CAPTIONS[1], overlap=2, seeds=[6], **TENSOR, **few)
    torch.testing.assert_close(alone.frames, output.frames[1:], atol=1e-3, rtol=0)
    images = pipeline.extend(images_of(clips[1]), 11, CAPTIONS[1], overlap=2, seeds=[6], **few).frames[0]
    assert [image.size for image in images] == [(12, 8)] * 11
    assert np.array_equal(np.stack(images[:5]), clips[1].permute(0, 2, 3, 1))
    other = pipeline.extend(clips[1], 11, CAPTIONS[1], overlap=2, seeds=[7], **TENSOR, **few)
    assert (other.frames[:, 5:] - alone.frames[:, 5:]).abs().mean() > 1e-4


def test_each_window_holds_the_motion_and_content_of_the_overlap(first_frame, clips, few):
    """Of a model of the first frame; the frames that are generated do not change a bit of them."""
    pipeline, windows = first_frame, []
    decode = pipeline.decode
    pipeline.decode = lambda content, motion: windows.append((content, motion)) or decode(content, motion)
    output = pipeline.extend(clips[0], 11, CAPTIONS[0], overlap=2, seeds=[5], **TENSOR, **few)
    assert len(windows) == 2
    for number, (content, motion) in enumerate(windows):
        start = 3 + 3 * number
        held = output.frames[:, [start, *[start + 1] * 4]].transpose(1, 2) * 2 - 1
        own = pipeline.encode(held)
        assert torch.equal(content, held[:, :, 0])
        assert torch.equal(motion[:, :, :2], own[1][:, :, :2])
        assert (motion[:, :, 2:] - own[1][:, :, 2:]).abs().mean() > 1e-3
    assert (windows[0][1] - windows[1][1]).abs().mean() > 1e-3


def test_an_image_begins_a_longer_video(first_frame, clips, few):
    """By default windows share the frames that decide the content frame: one."""
    output = first_frame.extend(clips[0][0], 9, CAPTIONS[0], seeds=[5], **TENSOR, **few)
    assert output.frames.shape == (1, 9, 3, 8, 12)
    assert torch.equal(output.frames[0, 0], clips[0][0].float() / 255)
    short = first_frame.extend(clips[0][0], 3, CAPTIONS[0], seeds=[5], **TENSOR, **few)
    assert torch.equal(short.frames, output.frames[:, :3])


def test_the_change_at_a_seam():
    steady = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 4, 4)
    assert seam_ratio(steady, [3]) == 1
    jump = steady + 4 * (torch.arange(8) >= 3).view(1, 1, 8, 1, 1)
    assert seam_ratio(jump, [3]) == 5
    assert seam_ratio(jump, [3, 5]) == 3


def test_nothing_outside_a_mask_changes(captioned, clips, few):
    pipeline, mask = captioned(), np.zeros((8, 12), np.uint8)
    mask[2:5, 3:9] = 255
    inside = torch.from_numpy(mask).bool()
    output = pipeline.edit([*clips], Image.fromarray(mask), CAPTIONS, seeds=[5, 6], **few)
    frames = torch.from_numpy(np.stack([np.stack(video) for video in output.frames])).permute(0, 1, 4, 2, 3)
    before = torch.stack(clips)
    assert torch.equal(frames[..., ~inside], before[..., ~inside])
    assert (frames[..., inside] != before[..., inside]).float().mean() > 0.9
    floats = pipeline.edit([*clips], inside, CAPTIONS, seeds=[5, 6], **TENSOR, **few).frames
    assert torch.equal(floats[..., ~inside], before[..., ~inside].float() / 255)
    assert (floats * 255 - frames).abs().max() <= 0.501
    alone = pipeline.edit(clips[1], inside, CAPTIONS[1], seeds=[6], **TENSOR, **few).frames
    torch.testing.assert_close(alone, floats[1:], atol=1e-3, rtol=0)


def test_latents_outside_a_mask_are_held(captioned, clips, few):
    pipeline, inside = captioned(), torch.zeros(8, 12, dtype=torch.bool)
    inside[2:5, 3:9] = True
    seen = []
    decode = pipeline.decode
    pipeline.decode = lambda content, motion: seen.append((content, motion)) or decode(content, motion)
    pipeline.edit(clips[0], inside, CAPTIONS[0], seeds=[5], **few)
    (content, motion), (own, own_motion) = seen[0], of(pipeline, clips[0])
    assert torch.equal(content[..., ~inside], own[..., ~inside])
    slots = torch.tensor([1, 2, 4 + 1, 4 + 2, 4 + 3, 4 + 4])  # of 4 rows and 6 columns of patches
    rest = [slot for slot in range(10) if slot not in slots]
    torch.testing.assert_close(motion[..., rest], own_motion[..., rest], atol=0, rtol=0)
    assert (motion[..., slots] - own_motion[..., slots]).abs().min() > 0


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("__call__", {"video": noise_clip(), "image": noise_clip()[0]}, "`image` and `video`: give one of the two"),
        ("__call__", {"video": noise_clip(3)}, "`video`: a clip of 3 frames, the model needs 5"),
        ("__call__", {"video": "nowhere.mp4"}, "nowhere.mp4: no such video file"),
        ("__call__", {"video": []}, "`video`: an empty list"),
        ("__call__", {"video": noise_clip(), "strength": 1.5}, "`strength` 1.5: give a number from 0"),
        ("__call__", {"strength": 0.5}, "`strength` 0.5: nothing is given to change"),
        ("__call__", {"image": noise_clip()[0], "strength": {"motion": 0.5}}, "`strength`: no motion is given"),
        ("__call__", {"motion": torch.zeros(1, 3, 5, 4)}, r"`motion`: \(1, 3, 5, 4\); give motion latents of shape"),
        ("__call__", {"motion": torch.zeros(2, 3, 5, 10)}, "`motion`: 2 given for 1 prompts; give as many"),
        ("__call__", {"video": noise_clip(), "keep": {"sound": torch.ones(1)}}, "`keep`: no sound is given"),
        ("__call__", {"video": noise_clip(), "keep": {"motion": torch.ones(7)}}, r"`keep`: \(7,\) for motion"),
        ("transfer", {}, "`content_from` and `motion_from`: neither is given"),
        ("transfer", {"motion_from": noise_clip(3)}, "`motion_from`: a clip of 3 frames, the model needs 5"),
        ("transfer", {"content_from": 7}, "`content_from`: a int; give PIL images"),
        ("transfer", {"content_from": [noise_clip()] * 3}, "`content`: 3 given for 1 prompts; give as many"),
        ("interpolate", {"stage": "sound"}, "`stage` 'sound': choose content, motion"),
        ("interpolate", {"weights": [0, 1.5]}, r"`weights` \[0, 1.5\]: give one for each video, from 0 to 1"),
        ("interpolate", {"prompt": ("a", "b", "c")}, "`prompt`: 3 given for two clips; give one, or one of each"),
        ("interpolate", {"num_videos_per_prompt": 2}, "`num_videos_per_prompt` 2: one video is made of each clip"),
        ("extend", {"num_frames": 5}, "`num_frames` 5: the clip has 5 already; give more"),
        ("extend", {"num_frames": 9, "overlap": 5}, "`overlap` 5: give 1 to 4, as windows have 5 frames"),
        ("extend", {"video": noise_clip(1), "num_frames": 9}, "`video`: 1 frames, fewer than the overlap 3"),
        ("extend", {"num_frames": 9, "output_type": "latent"}, "output_type 'latent': choose pil, np, pt"),
        ("edit", {"mask": np.zeros((8, 12), np.uint8)}, "`mask`: no part of it is white"),
        ("edit", {"mask": torch.ones(9, 12)}, "`mask`: 12x9 pixels; give one of the clip's size, 12x8"),
        ("edit", {"mask": torch.ones(8, 12), "output_type": "latent"}, "output_type 'latent': choose pil, np, pt"),
    ],
)
def test_wrong_uses_are_named(captioned, few, method, given, message):
    usual = {
        "extend": {"video": noise_clip()},
        "edit": {"video": noise_clip()},
        "interpolate": {"first": noise_clip(), "second": noise_clip()},
    }
    with pytest.raises(InputError, match=message) as error:
        getattr(captioned(), method)(**usual.get(method, {}) | {"prompt": "a red circle", **few} | given)
    assert "\n" not in str(error.value)
