import json
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from missing import missing, needed
from PIL import Image

from cmd_lightning.cli import main
from cmd_lightning.commands.app_sampling import Order, sampled
from cmd_lightning.image_io import read_image
from cmd_lightning.latent_space import to_uint8

STEPS, GUIDANCE = {"content": 2, "motion": 3}, {"content": 2.0, "motion": 1.5}
WAIT = 60_000
"""Milliseconds for what the page shows at once on a machine without other work."""


@pytest.fixture
def page(tiny_pipeline, tmp_path, monkeypatch):
    """Serves the page of a small model: its address."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # connections that leave this computer raise, see conftest
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    needed("gradio")
    from cmd_lightning.commands.app_page import Page, launch

    pipeline = tiny_pipeline("caption")
    pipeline.register_to_config(steps=STEPS, guidance=GUIDANCE)
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "videos").mkdir()
    page = Page(pipeline, str(tmp_path / "model"), tmp_path / "videos")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield launch(page, "127.0.0.1", port)
    page.blocks.close(verbose=False)


@pytest.fixture
def browser():
    """A headless Chromium."""
    playwright = needed("playwright.sync_api")
    path = shutil.which("chromium") or missing("chromium is not installed; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


PIXELS = """video => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    return canvas.toDataURL();
}"""
"""The frame that a video shows."""


def test_a_visit(page, browser, tmp_path):
    """Type, generate, see frames move, download; upload a broken file; nothing comes from elsewhere."""
    hosts, sight = set(), browser.new_page(viewport={"width": 1200, "height": 900})
    sight.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    sight.goto(page)
    sight.get_by_label("Caption").fill("square")
    sight.get_by_label("New seed").uncheck()
    sight.get_by_label("Seed", exact=True).fill("7")
    sight.get_by_role("button", name="Generate").click()
    video = sight.locator("video").first
    video.wait_for(timeout=WAIT)
    assert sight.locator(".block.stages").inner_text().replace("\n", " ") == "Content 2 of 2 Motion 3 of 3"
    assert sight.locator(".image-frame img").count() == 1  # the content frame
    sight.wait_for_function("() => document.querySelector('video').currentTime > 0", timeout=WAIT)
    seen = {video.evaluate(PIXELS)}
    while len(seen) < 2:
        sight.wait_for_timeout(100)
        seen.add(video.evaluate(PIXELS))

    with sight.expect_download() as download:
        sight.get_by_text("Download record").click()
    download.value.save_as(tmp_path / "square-7.json")
    record = json.loads((tmp_path / "square-7.json").read_text())
    assert (record["condition"], record["seed"], record["steps"]) == ("square", 7, STEPS)
    with sight.expect_download() as download:
        sight.get_by_text("Download video").click()
    assert download.value.suggested_filename == "square-7.mp4"

    (tmp_path / "broken.png").write_bytes(b"no image")
    sight.set_input_files("input[type=file]", tmp_path / "broken.png")
    sight.get_by_text("broken.png cannot be read as an image; upload a PNG or JPEG").wait_for(timeout=WAIT)
    sight.get_by_label("Caption").fill(" ")
    sight.get_by_role("button", name="Generate").click()
    sight.get_by_text("the caption is empty; write one, or upload an image").wait_for(timeout=WAIT)

    Image.new("RGB", (12, 8), "red").save(tmp_path / "red.png")
    sight.set_input_files("input[type=file]", tmp_path / "red.png")
    sight.locator("img[src*='red.png']").wait_for(timeout=WAIT)
    sight.get_by_role("button", name="Generate").click()
    sight.get_by_text("Motion 3 of 3").wait_for(timeout=WAIT)
    sight.get_by_text("Videos of this visit").wait_for(timeout=WAIT)
    assert hosts == {page.split("/")[2]}
    assert main(["generate", "--again", str(tmp_path / "square-7.json"), "--out", str(tmp_path / "again")]) == 0


def test_moments_of_a_video(tiny_pipeline):
    """Each step is reported, the content frame before the motion, and the video is that of the pipeline."""
    pipeline = tiny_pipeline("caption")
    moments = list(sampled(pipeline, Order("square", None, 7, STEPS, GUIDANCE)))
    done = [tuple(moment.done.values()) for moment in moments]
    assert done == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 3)]
    assert [moment.content is not None for moment in moments] == [False, False, True, True, True, True, True]
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt"}
    expected = pipeline("square", seeds=[7], **settings)
    video = (expected.frames[0].transpose(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(moments[-1].video, video)
    assert torch.equal(moments[2].content, to_uint8(expected.content[0]))


def test_moments_of_an_image(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline("caption")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    moments = list(sampled(pipeline, Order("square", image, 7, STEPS, GUIDANCE)))
    assert [dict(moment.done) for moment in moments] == [{"motion": number} for number in (0, 1, 2, 3, 3)]
    assert all(moment.content is not None for moment in moments)
    assert moments[-1].notes == ("image of 30x20 pixels: resized and cropped to the model's 12x8",)
    with pytest.warns(match="resized and cropped"):
        output = pipeline("square", image=image, seeds=[7], num_inference_steps=3, guidance_scale=1.5, output_type="pt")
    assert torch.equal(moments[-1].video, (output.frames[0].transpose(0, 1) * 255).round().to(torch.uint8))


def test_a_video_that_nobody_waits_for_is_stopped(tiny_pipeline):
    pipeline = tiny_pipeline("caption")
    moments = sampled(pipeline, Order("square", None, 7, {"content": 500, "motion": 500}, GUIDANCE))
    next(moments)
    moments.close()
    assert pipeline.interrupt
    assert pipeline.stage == "content"


def test_errors_of_the_model_are_raised_where_the_video_is_awaited(tiny_pipeline):
    with pytest.raises(Exception, match="class 9: the model knows classes 0 to 3"):
        list(sampled(tiny_pipeline("label"), Order(9, None, 7, STEPS, GUIDANCE)))


def test_wrong_options(capsys, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["app", "shapes32", "--port", str(port)]) == 2
    assert f"--host 127.0.0.1 --port {port}: nothing can listen there" in capsys.readouterr().err
    assert main(["app", "shapes32", "--port", "70000"]) == 2
    assert "--port 70000: give a number from 1 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "shapes32"]) == 2
    assert "gradio is missing; pip install 'cmd-lightning[app]'" in capsys.readouterr().err
