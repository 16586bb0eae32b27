import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer

from cmd_lightning.conditioning import ClassEncoder, OpenCLIPTextEncoder, PhraseEncoder, replace_condition
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.networks.classes import build, describe

CAPTIONS = ["a red circle moves left", "square", ""]
TEXT = {"context_length": 12, "width": 16, "heads": 2, "layers": 2}


def test_classes_are_rows_of_the_table_and_null_is_the_last():
    encoder = ClassEncoder(4, 6)
    condition = encoder([3, 0, 3])
    table = encoder.table.weight
    assert table.shape == (5, 6)
    assert torch.equal(condition.pooled, table[[3, 0, 3]])
    assert torch.equal(condition.tokens, table[[3, 0, 3]][:, None])
    assert condition.mask.tolist() == [[True]] * 3
    null = encoder.null(2)
    assert torch.equal(null.pooled, table[[4, 4]])
    assert all((null.pooled[0] != row).any() for row in encoder(range(4)).pooled)
    assert torch.equal(encoder(torch.tensor([1])).pooled, encoder([1]).pooled)


@pytest.mark.parametrize("wrong", [-1, 4, 99])
def test_classes_out_of_range_are_reported(wrong):
    with pytest.raises(InputError, match=f"class {wrong}: the model knows classes 0 to 3"):
        ClassEncoder(4, 6)([2, wrong, 1])


def test_hidden_states_are_those_of_open_clips_parts(wake):
    encoder = wake(OpenCLIPTextEncoder(TEXT))
    tower = TextTransformer(**TEXT, output_dim=None).eval()
    tower.load_state_dict(encoder.tower.state_dict())
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=12)(CAPTIONS)
    x = tower.token_embedding.weight[tokens] + tower.positional_embedding[:12]
    causal = torch.full((12, 12), float("-inf")).triu(1)
    for block in tower.transformer.resblocks:
        normed = block.ln_1(x)
        x = x + block.attn(normed, normed, normed, attn_mask=causal, need_weights=False)[0]
        x = x + block.mlp(block.ln_2(x))
    expected = tower.ln_final(x)

    condition = encoder(CAPTIONS)
    torch.testing.assert_close(condition.tokens, expected, atol=1e-5, rtol=1e-5)
    for i, row in enumerate(tokens.tolist()):
        real = row.index(49407) + 1  # up to the end of text
        assert condition.mask[i].tolist() == [True] * real + [False] * (12 - real)
        mean = sum(expected[i, j] for j in range(real)) / real
        torch.testing.assert_close(condition.pooled[i], mean, atol=1e-5, rtol=1e-5)
    assert encoder.dim == 16


def test_padding_does_not_reach_the_pooled_vector(wake):
    short = wake(OpenCLIPTextEncoder(TEXT))
    long = wake(OpenCLIPTextEncoder(TEXT | {"context_length": 20}))
    weights = short.state_dict()
    weights["tower.positional_embedding"] = torch.cat([weights["tower.positional_embedding"], torch.randn(8, 16)])
    weights["tower.attn_mask"] = long.state_dict().get("tower.attn_mask")
    long.load_state_dict({name: weights[name] for name in long.state_dict()})
    torch.testing.assert_close(long(CAPTIONS).pooled, short(CAPTIONS).pooled, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        before = short(CAPTIONS[:1]).pooled
        short.tower.token_embedding.weight[0] += 5  # the padding token
        torch.testing.assert_close(short(CAPTIONS[:1]).pooled, before)


def test_null_of_captions_is_the_empty_caption(wake):
    encoder = wake(OpenCLIPTextEncoder(TEXT))
    null = encoder.null(2)
    empty = encoder([""])
    torch.testing.assert_close(null.tokens, empty.tokens.expand(2, -1, -1))
    assert null.mask.sum(1).tolist() == [2, 2]  # start and end
    assert (encoder(CAPTIONS[:1]).pooled - null.pooled).abs().max() > 0.01


def test_a_caption_longer_than_the_tower_is_cut(wake):
    condition = wake(OpenCLIPTextEncoder(TEXT))(["red " * 40])
    assert condition.tokens.shape == (1, 12, 16)
    assert condition.mask.all()


@pytest.mark.parametrize("trainable", [True, False])
def test_trainable(trainable):
    encoder = OpenCLIPTextEncoder(TEXT, trainable=trainable)
    assert {p.requires_grad for p in encoder.parameters()} == {trainable}
    assert encoder(CAPTIONS).pooled.requires_grad == trainable


@pytest.mark.parametrize("make", [lambda: ClassEncoder(4, 6), lambda: OpenCLIPTextEncoder(TEXT)])
def test_encoders_go_through_a_folder(tmp_path, make):
    encoder = make().eval()
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path)
    values = CAPTIONS if encoder.field == "caption" else [0, 3]
    assert torch.equal(again(values).pooled, encoder(values).pooled)


def counted(count):
    own = torch.arange(1, count + 1).float()
    full = Condition(own[:, None].repeat(1, 3), own[:, None, None].repeat(1, 2, 3), torch.ones(count, 2).bool())
    return full, full.map(torch.zeros_like)


def test_what_is_dropped_is_dropped_whole():
    own, null = counted(64)
    dropped = torch.rand(64) < 0.5
    replaced = replace_condition(own, null, dropped)
    kept = torch.where(dropped, 0, torch.arange(1, 65)).float()
    assert torch.equal(replaced.pooled, kept[:, None].expand(-1, 3))
    assert torch.equal(replaced.tokens, kept[:, None, None].expand(-1, 2, 3))
    assert torch.equal(replaced.mask, ~dropped[:, None].expand(-1, 2))


def test_conditions_without_tokens_can_be_dropped():
    own = Condition(torch.ones(3, 2))
    assert replace_condition(own, own.map(torch.zeros_like), torch.ones(3, dtype=torch.bool)).pooled.sum() == 0
    assert replace_condition(own, own.map(torch.zeros_like), torch.zeros(3, dtype=torch.bool)).tokens is None


WORDS = ["red", "blue", "circle", "square"]


def test_a_caption_is_the_sum_of_its_words_in_their_phrases():
    encoder = PhraseEncoder(WORDS, phrases=2, dim=6)
    first, second = encoder.table.weight[1:].split(len(WORDS))  # one vector for each word, phrase by phrase
    captions = ["a red circle, a blue square", "a Blue  square ,a red circle", "red, , red", "", "a dog"]
    condition = encoder(captions)
    zero = torch.zeros(6)
    expected = [
        first[0] + first[2] + second[1] + second[3],
        first[1] + first[3] + second[0] + second[2],
        first[0] + second[0],  # the third phrase shares the vectors of the second
        zero,
        zero,
    ]
    torch.testing.assert_close(condition.pooled, torch.stack(expected))
    assert condition.tokens is None and condition.mask is None
    torch.testing.assert_close(encoder(captions[:1]).pooled[0], condition.pooled[0])  # neighbours do not matter
    assert torch.equal(encoder.null(3).pooled, torch.zeros(3, 6))
    assert len({tuple(row) for row in encoder.table.weight[1:].tolist()}) == 2 * len(WORDS)  # apart from the start


def test_words_that_are_not_known_learn_nothing():
    encoder = PhraseEncoder(WORDS, phrases=2, dim=6)
    encoder(["a red dog", ""]).pooled.square().sum().backward()
    moved = encoder.table.weight.grad.abs().sum(1)
    assert moved.nonzero().flatten().tolist() == [1]


def test_a_phrase_encoder_reports_the_words_that_it_does_not_know():
    caption = "The red dog, a blue cat behind a bar"
    assert PhraseEncoder(WORDS).unseen(caption) == ["dog", "cat", "behind", "bar"]
    assert PhraseEncoder(WORDS, ignored=["a", "bar"]).unseen(caption) == ["the", "dog", "cat", "behind"]
    assert PhraseEncoder([*WORDS, "a"]).unseen("a red circle") == []


def test_a_phrase_encoder_is_built_again_from_its_description():
    encoder = PhraseEncoder(WORDS, phrases=3, dim=6, ignored=["dog"])
    again = build(describe(encoder))
    again.load_state_dict(encoder.state_dict())
    assert again.unseen("the dog") == ["the"]
    assert torch.equal(again(["a blue circle, red"]).pooled, encoder(["a blue circle, red"]).pooled)


@pytest.mark.parametrize(("options", "name"), [({"phrases": 0}, "phrases 0"), ({"dim": -1}, "dim -1")])
def test_a_phrase_encoder_needs_sizes(options, name):
    with pytest.raises(InputError, match=name):
        PhraseEncoder(WORDS, **options)


def test_a_phrase_encoder_needs_each_word_once():
    with pytest.raises(InputError, match="words red: given more than once"):
        PhraseEncoder(["red", "blue", "red"])
