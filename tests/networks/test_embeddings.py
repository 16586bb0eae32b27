import itertools
import math

import torch
from diffusers.models import embeddings as diffusers_embeddings

from cmd_lightning.networks.embeddings import TimestepEmbedding, coordinates_embedding, grid_coordinates, sinusoid


def test_sinusoid_is_the_formula_and_diffusers():
    position = torch.tensor([0.0, 1.0, 17.5, 999.0])
    frequencies = [10_000 ** (-i / 4) for i in range(4)]
    expected = [
        [math.cos(p * f) for f in frequencies] + [math.sin(p * f) for f in frequencies] for p in position.tolist()
    ]
    torch.testing.assert_close(sinusoid(position, 8), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    reference = diffusers_embeddings.get_timestep_embedding(position, 8, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoid(position, 8), reference)


def test_sinusoid_takes_integers_of_any_shape():
    assert sinusoid(torch.arange(6).view(2, 3), 10).shape == (2, 3, 10)
    torch.testing.assert_close(sinusoid(torch.tensor([3]), 4), sinusoid(torch.tensor([3.0]), 4))


def test_each_coordinate_gets_a_share_and_the_rest_is_zero():
    points = torch.tensor([[2.0, 5.0, 1.0], [0.0, 3.0, 4.0]])
    embedding = coordinates_embedding(points, 14)  # three shares of four channels, two left over
    for axis in range(3):
        for row, point in enumerate(points[:, axis].tolist()):
            share = [math.cos(point), math.cos(point / 100), math.sin(point), math.sin(point / 100)]
            torch.testing.assert_close(embedding[row, 4 * axis : 4 * axis + 4], torch.tensor(share))
    assert (embedding[:, 12:] == 0).all()


def test_grid_is_row_major():
    expected = list(itertools.product(range(2), range(3), range(4)))
    torch.testing.assert_close(grid_coordinates(2, 3, 4), torch.tensor(expected).float())
    torch.testing.assert_close(grid_coordinates(3), torch.tensor([[0.0], [1.0], [2.0]]))
    assert grid_coordinates(1, 1).shape == (1, 2)


def test_points_of_a_grid_have_different_embeddings():
    embedding = coordinates_embedding(grid_coordinates(5, 7), 16)
    distance = torch.cdist(embedding, embedding) + 9 * torch.eye(35)
    assert distance.min() > 0.1


def test_timestep_embedding_is_diffusers():
    layer = TimestepEmbedding(12, frequencies=8)
    reference = diffusers_embeddings.TimestepEmbedding(8, 12)
    reference.linear_1.load_state_dict(layer.mlp[0].state_dict())
    reference.linear_2.load_state_dict(layer.mlp[2].state_dict())
    timestep = torch.tensor([0, 1, 500, 999])
    frequencies = diffusers_embeddings.Timesteps(8, flip_sin_to_cos=True, downscale_freq_shift=0)(timestep)
    torch.testing.assert_close(layer(timestep), reference(frequencies))


def test_timestep_embedding_in_half_precision():
    assert TimestepEmbedding(12).bfloat16()(torch.tensor([7])).dtype == torch.bfloat16
