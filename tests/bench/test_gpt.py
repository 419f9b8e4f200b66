import pytest
import torch

from stiefel.bench.gpt import GPT, HEAD_SIZE, Rotary


@pytest.fixture
def model() -> GPT:
    return GPT(layers=2, width=128, context=32)


def test_no_byte_sees_a_later_one(model: GPT) -> None:
    tokens = torch.randint(256, (2, 32))
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 256
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 32, 256)
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before[:, 20:] != after[:, 20:]).any(dim=-1).all()


def test_shorter_windows_give_the_same_logits(model: GPT) -> None:
    tokens = torch.randint(256, (2, 32))
    torch.testing.assert_close(model(tokens[:, :9]), model(tokens)[:, :9])


def test_every_parameter_is_a_weight_that_learns(model: GPT) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.randint(256, (4, 32))).float().square().mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert name.endswith("weight")
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_rotary_products_depend_on_distance_alone() -> None:
    rotary = Rotary(context=40)
    query, key = torch.randn(2, HEAD_SIZE).unbind()
    queries, keys = rotary(query.expand(40, -1)), rotary(key.expand(40, -1))
    products = queries @ keys.T
    torch.testing.assert_close(products[5, 2], products[35, 32])
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(40))
    assert abs(products[5, 2] - products[35, 2]) > 0.01
