import pytest
import torch
from diffusers import UNet2DConditionModel

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.contracts import ContentModel
from cmd_lightning.networks.stock import predict_content
from cmd_lightning.zoo.content.unet import unet


def spec_of(*content):
    return LatentSpec(content, (1, 1, 1), ((0.0, 0.0),))


def test_defaults_are_stable_diffusion_15():
    with torch.device("meta"):
        network = unet(spec_of(4, 64, 64), 768)
    assert type(network) is UNet2DConditionModel
    assert sum(p.numel() for p in network.parameters()) == 859_520_964  # as published


def test_stable_diffusion_21_is_a_choice_of_arguments():
    with torch.device("meta"):
        network = unet(spec_of(4, 64, 64), 1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True)
    assert sum(p.numel() for p in network.parameters()) == 865_910_724  # as published
    attention = [block.attentions[0].transformer_blocks[0].attn1 for block in network.down_blocks[:3]]
    assert [layer.heads for layer in attention] == [5, 10, 20]
    assert [layer.to_q.out_features // layer.heads for layer in attention] == [64, 64, 64]
    assert network.down_blocks[0].attentions[0].proj_in.weight.ndim == 2
    with pytest.raises(InputError, match=r"attention_head_dim \[5, 10\]: block_out_channels has 4 levels"):
        unet(spec_of(4, 64, 64), 1024, attention_head_dim=[5, 10])


def test_levels_attend_from_the_one_asked_for_but_the_last():
    config = unet(spec_of(3, 8, 12), 16, (8, 16, 24), 1, 2, attention_from_level=1).config
    assert config.down_block_types == ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    assert config.up_block_types == ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    assert config.cross_attention_dim == 16


@pytest.mark.parametrize(
    ("channels", "groups"),
    [((320, 640, 1280, 1280), 32), ((32, 64, 128, 128), 8), ((48, 96), 12), ((8, 12), 2), ((2, 4), 1)],
)
def test_groups_of_the_norms(channels, groups):
    with torch.device("meta"):
        assert unet(spec_of(3, 8, 8), 16, channels, 1, 1).config.norm_num_groups == groups


@torch.no_grad()
def test_the_first_level_sees_the_timestep(wake):
    network = wake(unet(spec_of(3, 8, 12), 16, (32, 64), 1, 2, attention_from_level=1))
    seen = []
    network.down_blocks[0].resnets[0].register_forward_hook(lambda *call: seen.append(call[2]))
    content = torch.randn(1, 3, 8, 12)
    for timestep in (3, 700):
        predict_content(network, content, torch.tensor([timestep]), None)
    early, late = seen
    assert (late - early).std() > 0.01 * early.std()


def test_reads_tokens_or_the_pooled_vector_or_nothing(wake):
    network = wake(unet(spec_of(3, 8, 12), 16, (8, 16), 1, 2))
    content, timestep = torch.randn(2, 3, 8, 12), torch.tensor([3, 700])
    pooled, tokens = torch.randn(2, 16), torch.randn(2, 5, 16)

    def stock(hidden):
        return network(content, timestep, encoder_hidden_states=hidden).sample

    both = predict_content(network, content, timestep, Condition(pooled, tokens))
    torch.testing.assert_close(both, stock(tokens))
    torch.testing.assert_close(predict_content(network, content, timestep, Condition(pooled)), stock(pooled[:, None]))
    torch.testing.assert_close(predict_content(network, content, timestep, None), stock(torch.zeros(2, 1, 16)))
    assert not torch.allclose(both, stock(pooled[:, None]))


def test_an_own_content_model_gets_the_whole_condition():
    class Echo(ContentModel):
        def __init__(self):
            super().__init__()

        def forward(self, content, timestep, condition):
            return content + timestep.view(-1, 1, 1, 1) + condition.mask.sum()

    condition = Condition(torch.zeros(1, 4), mask=torch.ones(1, 3))
    said = predict_content(Echo(), torch.zeros(1, 3, 2, 2), torch.tensor([5]), condition)
    assert (said == 8).all()
