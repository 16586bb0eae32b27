"""The I3D a second time, as functions of a state dict: convolutions as sums of products, padding by counting places."""

import json
import zlib

import torch
from torch.nn import functional as F

NETWORK = [
    ("unit", "Conv3d_1a_7x7", 7, 2),
    ("pool", (1, 3, 3), (1, 2, 2)),
    ("unit", "Conv3d_2b_1x1", 1, 1),
    ("unit", "Conv3d_2c_3x3", 3, 1),
    ("pool", (1, 3, 3), (1, 2, 2)),
    *[("mixed", f"Mixed_{block}") for block in ("3b", "3c")],
    ("pool", (3, 3, 3), (2, 2, 2)),
    *[("mixed", f"Mixed_{block}") for block in ("4b", "4c", "4d", "4e", "4f")],
    ("pool", (2, 2, 2), (2, 2, 2)),
    *[("mixed", f"Mixed_{block}") for block in ("5b", "5c")],
]


def made_weights(assets):
    """Weights for the layout of the public files, such that values stay around one through all layers."""
    state = {}
    for entry in json.loads((assets / "fvd_reference/i3d_state_dict_layout.json").read_text())["entries"]:
        name, shape = entry["name"], entry["shape"]
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if name.endswith("conv3d.weight"):
            state[name] = noise * 0.2 / noise[0].numel() ** 0.5
        elif name.endswith("running_var"):
            state[name] = 0.04 + 0.02 * noise.sin()
        elif name.endswith("bn.weight"):
            state[name] = 1.2 + 0.2 * noise
        elif not name.endswith("num_batches_tracked"):
            state[name] = 0.1 * noise
    return state


def hassony2_names(assets):
    entries = json.loads((assets / "fvd_reference/i3d_state_dict_layout.json").read_text())["entries"]
    return {entry["name"]: entry["hassony2_name"] for entry in entries}


def same(x, kernel, stride):
    """Zeros around, so that windows begin at every stride-th place: TensorFlow's SAME."""
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        size = x.shape[axis]
        windows = (size + s - 1) // s
        missing = max((windows - 1) * s + k - size, 0)
        shape = list(x.shape)
        pads = []
        for length in (missing // 2, missing - missing // 2):
            shape[axis] = length
            pads.append(x.new_zeros(shape))
        x = torch.cat([pads[0], x, pads[1]], axis)
    return x


def windows(x, kernel, stride):
    """For each place in the kernel: it, and what all windows see there."""
    x = same(x, kernel, stride)
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    for place in torch.cartesian_prod(*map(torch.arange, kernel)).view(-1, 3).tolist():
        slices = (slice(first, first + (n - 1) * s + 1, s) for first, n, s in zip(place, sizes, stride, strict=True))
        yield place, x[(..., *slices)]


NORM = ("running_mean", "running_var", "weight", "bias")


def unit(state, name, x, kernel, stride, eps):
    w, norm = state[f"{name}.conv3d.weight"].to(x), {key: state[f"{name}.bn.{key}"].to(x) for key in NORM}
    y = sum(
        torch.tensordot(w[..., t, i, j], seen, dims=([1], [1]))
        for (t, i, j), seen in windows(x, (kernel,) * 3, (stride,) * 3)
    )  # (width, B, T, H, W)
    norm = {key: value.view(-1, 1, 1, 1, 1) for key, value in norm.items()}
    y = (y - norm["running_mean"]) / (norm["running_var"] + eps) ** 0.5 * norm["weight"] + norm["bias"]
    return y.clamp_min(0).transpose(0, 1)


def pool(x, kernel, stride):
    return torch.stack([seen for _, seen in windows(x, kernel, stride)]).amax(0)


def mixed(state, name, x, eps):
    branches = {"0": ["b0"], "1": ["b1a", "b1b"], "2": ["b2a", "b2b"], "3": ["b3b"]}
    results = []
    for branch, parts in branches.items():
        y = pool(x, (3, 3, 3), (1, 1, 1)) if branch == "3" else x
        for part in parts:
            y = unit(state, f"{name}.{part}", y, 3 if part in ("b1b", "b2b") else 1, 1, eps)
        results.append(y)
    return torch.cat(results, 1)


def reference_trunk(state, x, eps):
    for kind, *settings in NETWORK:
        if kind == "unit":
            name, kernel, stride = settings
            x = unit(state, name, x, kernel, stride, eps)
        elif kind == "pool":
            x = pool(x, *settings)
        else:
            x = mixed(state, *settings, x, eps)
    return x


def reference_i3d(state, video, eps):
    return reference_scores(state, reference_trunk(state, video, eps))


def reference_scores(state, x):
    means = x.unfold(2, 2, 1).unfold(3, 7, 1).unfold(4, 7, 1).mean((-3, -2, -1))
    weight, bias = state["logits.conv3d.weight"].to(x), state["logits.conv3d.bias"].to(x)
    return F.linear(means.mean((2, 3, 4)), weight.flatten(1), bias)
