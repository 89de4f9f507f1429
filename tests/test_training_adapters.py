"""The residual adapter."""

import torch
from torch.nn import functional as F

from capkit.training.adapters import Adapter


def unit_rows(n_rows=5, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n_rows, width, generator=generator), dim=-1)


def test_untrained_adapter_is_the_identity():
    features = unit_rows()
    torch.testing.assert_close(Adapter(8, weight=0.5)(features), features, atol=1e-7, rtol=0)


def test_hand_computed_residual():
    adapter = Adapter(2, hidden=2, weight=0.5)
    with torch.no_grad():
        adapter.fc1.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        adapter.fc1.bias.zero_()
        adapter.fc2.weight.copy_(torch.tensor([[0.0, 9.0], [2.0, 9.0]]))
        adapter.fc2.bias.copy_(torch.tensor([0.0, 0.4]))
    # hidden = relu(1, -1) = (1, 0); residual = (0, 2.4); (1, 0) + 0.5 * (0, 2.4) = (1, 1.2)
    expected = torch.tensor([[1.0, 1.2]]) / 2.44**0.5
    torch.testing.assert_close(adapter(torch.tensor([[1.0, 0.0]])), expected)


def test_all_of_an_adapter_learns_within_two_steps():
    adapter, features = Adapter(8, hidden=4, weight=0.5), unit_rows()
    before = [parameter.detach().clone() for parameter in adapter.parameters()]
    optimizer = torch.optim.SGD(adapter.parameters(), lr=1.0)
    for _ in range(2):  # the first step moves the second layer away from zero
        optimizer.zero_grad()
        (adapter(features) * unit_rows(seed=1)).sum().backward()
        optimizer.step()
    after = adapter.parameters()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_rows_stay_unit():
    adapter = Adapter(8, weight=0.5)
    torch.nn.init.normal_(adapter.fc2.weight)
    norms = adapter(unit_rows()).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(5))


def test_default_is_the_papers():
    adapter = Adapter(512)
    assert adapter.weight == 0.01
    assert tuple(adapter.fc1.weight.shape) == (128, 512)
