"""MaPLe prompts, and where they stand in a text."""

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from tiny_models import CONTEXT_LENGTH, build_model

from capkit.backbones.prompting import find_text_tower
from capkit.tuning.maple import MaplePrompts, place_context

START, A, PHOTO, OF, CAT, END = 49406, 320, 1125, 539, 2368, 49407
tokenize = SimpleTokenizer(context_length=CONTEXT_LENGTH)


def place(texts, length=2, context="a photo of a", tokenize=tokenize, model="clip"):
    tower = find_text_tower(build_model(model))
    return place_context(tokenize, tower, texts, context=context, length=length)


def padded(*ids, length=CONTEXT_LENGTH, pad=0):
    return list(ids) + [pad] * (length - len(ids))


# -- MaplePrompts


def test_first_text_prompts_are_the_context_and_deeper_ones_small():
    torch.manual_seed(0)
    context = torch.ones(2, 64)
    text, _ = MaplePrompts(context, visual_width=12, depth=3)()
    assert torch.equal(text[0], context)
    assert 0.01 < torch.stack(text[1:]).std() < 0.03


def test_visual_prompts_are_linear_in_the_text_prompts_of_their_layer():
    prompts = MaplePrompts(torch.randn(2, 8), visual_width=12, depth=3)
    text, visual = prompts()
    assert [tuple(prompt.shape) for prompt in visual] == [(2, 12)] * 3
    layer = prompts.to_visual[1]
    torch.testing.assert_close(visual[1], text[1] @ layer.weight.T + layer.bias)
    visual[1].sum().backward()
    assert [prompt.grad is not None for prompt in prompts.text] == [False, True, False]


def test_prompts_do_not_change_the_embeddings_they_start_from():
    context = torch.ones(2, 8)
    prompts = MaplePrompts(context, visual_width=12, depth=1)
    with torch.no_grad():
        prompts.text[0].add_(1)
    assert torch.equal(context, torch.ones(2, 8))


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        MaplePrompts(torch.zeros(2, 8), visual_width=12, depth=0)


# -- place_context


def test_text_that_begins_with_the_context_gives_its_first_tokens_up():
    tokens, start, _ = place(["a photo of a cat"])
    assert start == 1
    assert tokens.tolist() == [padded(START, A, PHOTO, OF, A, CAT, END)]


def test_other_text_gets_placeholders_inserted():
    tokens, start, _ = place(["cat", "photo of cat"])
    assert start == 1
    assert tokens.tolist() == [
        padded(START, A, PHOTO, CAT, END),
        padded(START, A, PHOTO, PHOTO, OF, CAT, END),
    ]


def test_embeddings_are_the_contexts():
    placed = place(["a photo of a cat"])
    expected = build_model().token_embedding.weight[[A, PHOTO]]
    torch.testing.assert_close(placed.embeddings, expected, atol=0, rtol=0)


def test_prompts_beyond_the_context_start_small():
    torch.manual_seed(0)
    placed = place(["a photo of a cat"], length=6)
    expected = build_model().token_embedding.weight[[A, PHOTO, OF, A]]
    torch.testing.assert_close(placed.embeddings[:4], expected, atol=0, rtol=0)
    assert 0.01 < placed.embeddings[4:].std() < 0.03
    # the text has only four of the six, so they are inserted, and its own words stay
    assert placed.tokens[0, 7:].tolist() == padded(A, PHOTO, OF, A, CAT, END, length=25)


@pytest.mark.parametrize("model", ["clip", "custom text eos pool"])
def test_a_text_too_long_loses_its_last_words_but_not_its_end(model):
    tokens, _, _ = place(["cat " * 40, "cat " * 29], model=model)
    assert tokens.tolist() == [[START, A, PHOTO] + [CAT] * 28 + [END]] * 2


def test_tokenizer_without_a_start_token_puts_prompts_first():
    words = {}

    def tokenize(texts):  # as SigLIP's: no start token, padded with the end token 1
        rows = [[words.setdefault(w, len(words) + 2) for w in text.split()] for text in texts]
        return torch.tensor([padded(*row, length=8, pad=1) for row in rows])

    tokens, start, embeddings = place(["a photo of cat", "dog"], tokenize=tokenize, model="siglip")
    ids = [words[word] for word in ("a", "photo", "of", "cat", "dog")]
    assert start == 0
    assert tokens.tolist() == [
        padded(*ids[:4], length=8, pad=1),
        padded(*ids[:2], ids[4], length=8, pad=1),
    ]
    expected = build_model("siglip").text.token_embedding.weight[ids[:2]]
    torch.testing.assert_close(embeddings, expected, atol=0, rtol=0)


@pytest.mark.parametrize("length", [0, 30])
def test_prompts_must_leave_room_for_a_text(length):
    with pytest.raises(ValueError, match=f"between 1 and 29 .*takes 32 tokens.*got {length}"):
        place(["a photo of a cat"], length=length)


@pytest.mark.parametrize("context", ["", "  "])
def test_a_context_without_a_token_is_refused(context):
    with pytest.raises(ValueError, match="expected a context of at least one token, got"):
        place(["a cat"], context=context)
