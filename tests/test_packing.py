"""Texts packed into one sequence keep their tokens, positions and views of each other."""

import torch

from capkit.backbones.packing import common_start, pack_texts, split_texts

# Three texts: start token 8, end token 9, padding 0; the first two tokens are the same.
TOKENS = torch.tensor([[8, 1, 2, 3, 9], [8, 1, 9, 0, 0], [8, 1, 4, 9, 0]])
ENDS = torch.tensor([4, 2, 3])


def test_common_start_ends_where_texts_differ():
    assert common_start(TOKENS, ENDS) == 2
    assert common_start(TOKENS[:, 1:], ENDS - 1) == 1


def test_common_start_never_takes_an_end_token():
    same = TOKENS[[1, 1]]
    assert common_start(same, ENDS[[1, 1]]) == 2
    assert common_start(TOKENS[:1], ENDS[:1]) == 4


def test_texts_without_a_common_start():
    assert common_start(torch.tensor([[1, 9], [2, 9]]), torch.tensor([1, 1])) == 0


def test_packed_tokens_and_positions():
    packed = pack_texts(TOKENS, ENDS, start=2)
    assert packed.tokens.tolist() == [8, 1, 2, 3, 9, 9, 4, 9]
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 2, 2, 3]
    assert packed.ends.tolist() == [4, 5, 7]


def test_a_token_sees_the_start_and_its_own_text_up_to_itself():
    mask = pack_texts(TOKENS, ENDS, start=2).mask
    assert set(mask.unique().tolist()) == {-torch.inf, 0.0}
    assert (mask == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],  # start
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],  # first text
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 0, 0],  # second text
        [1, 1, 0, 0, 0, 0, 1, 0],  # third text
        [1, 1, 0, 0, 0, 0, 1, 1],
    ]


def test_runs_keep_the_order_and_begin_anew_at_the_size():
    # own tokens behind a start of two: 3, 1, 2
    assert [run.tolist() for run in split_texts(ENDS, 2, size=4)] == [[0, 1], [2]]
    assert [run.tolist() for run in split_texts(ENDS, 2, size=3)] == [[0], [1, 2]]
    assert [run.tolist() for run in split_texts(ENDS, 2, size=100)] == [[0, 1, 2]]
    assert [run.tolist() for run in split_texts(ENDS, 2, size=1)] == [[0], [1], [2]]
