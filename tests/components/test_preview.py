"""The previews of the stages during training."""

import pytest
import torch


@pytest.mark.parametrize("condition", ["caption", "label", None])
def test_rows_of_every_stage(tiny_stages, condition):
    _, components = tiny_stages(condition)
    batch = {
        "video": torch.randint(256, (2, 3, 5, 8, 12), dtype=torch.uint8),
        "caption": ["a red circle", "a blue square"],
        "label": torch.tensor([0, 3]),
        "key": ["0", "1"],
        "fps": torch.full((2,), 7.0),
    }
    rows = {name: component.eval().preview(batch) for name, component in components.items()}
    assert list(rows["autoencoder"]) == ["original", "content frame", "reconstruction"]
    assert list(rows["content"]) == ["content frame", "sample"]
    assert list(rows["motion"]) == ["content frame", "reconstruction", "sampled motion"]
    for stage in rows.values():
        for row in stage.values():
            assert row.shape in ((2, 3, 5, 8, 12), (2, 3, 1, 8, 12)) and row.abs().max() <= 1
    torch.testing.assert_close(rows["motion"]["reconstruction"], rows["autoencoder"]["reconstruction"])
