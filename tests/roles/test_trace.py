"""What an example input tells, and that the model is afterwards as it was before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import stiefel
from stiefel.errors import StiefelError
from stiefel.plan import Plan
from tests.roles import zoo

pytestmark = pytest.mark.filterwarnings("ignore:matrix recipes step only")

IDS = torch.arange(14).view(2, 7)


def plan(model: nn.Module, example: Any) -> Plan:
    return stiefel.plan(model, "muon", example=example)


def heads(model: nn.Module, example: Any) -> list[str]:
    return [entry.name for entry in plan(model, example).values() if entry.role == "head"]


class Decoder(nn.Module):
    """Embeds, maps, and does with both what ``finish`` says."""

    def __init__(self, finish: Any) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, 16)
        self.body = nn.Linear(16, 16)
        self.out = nn.Linear(16, 5)
        self.norm = nn.LayerNorm(5)
        self.gain = nn.Parameter(torch.ones(5))
        self.finish = finish

    def forward(self, ids: Tensor) -> Any:
        return self.finish(self, self.body(self.emb(ids)).relu())


FOUND = {
    "plain": lambda m, x: m.out(x),
    "soft cap": lambda m, x: 30 * torch.tanh(m.out(x) / 30),
    "last position, other dtype": lambda m, x: m.out(x)[:, -1].to(torch.bfloat16).float(),
    "log-softmax and gain": lambda m, x: functional.log_softmax(m.out(x) * m.gain + m.gain, -1),
    "einsum": lambda m, x: torch.einsum("btd,vd->btv", x, m.out.weight),
    "weight in another dtype": lambda m, x: functional.linear(x.double(), m.out.weight.double()),
    "evaluation mode": lambda m, x: m.emb.weight if m.training else m.out(x),
    "loss first": lambda m, x: (m.out(x).sum(), m.out(x)),
    "mapping": lambda m, x: {"logits": m.out(x), "cache": (x,), "name": "x"},
}
NOT_FOUND = {
    "norm": lambda m, x: m.norm(m.out(x)),
    "residual": lambda m, x: x + m.body(x),
    "loss only": lambda m, x: m.out(x).sum(),
    "cache only": lambda m, x: {"cache": (m.out(x),)},
    "detached": lambda m, x: m.out(x).detach(),
    "scores": lambda m, x: x @ x.mT,
}


@pytest.mark.parametrize("finish", FOUND.values(), ids=FOUND)
def test_head_is_found(finish: Any) -> None:
    made = plan(Decoder(finish), IDS)
    assert made["out.weight"].role == "head"
    assert made["out.weight"].reason == "makes the output of the example"
    assert made["body.weight"].role == "hidden"


@pytest.mark.parametrize("finish", NOT_FOUND.values(), ids=NOT_FOUND)
def test_no_head(finish: Any) -> None:
    assert heads(Decoder(finish), IDS) == []


def test_embedding_used_as_head() -> None:
    entry = plan(Decoder(lambda m, x: functional.linear(x, m.emb.weight)), IDS)["emb.weight"]
    assert entry.role == "embedding"
    assert entry.reason == "Embedding, also makes the output"


def test_an_example_overrules_names() -> None:
    model = Decoder(FOUND["plain"])
    model.head = nn.Linear(16, 16)
    assert stiefel.plan(model, "muon")["head.weight"].role == "head"
    assert heads(model, IDS) == ["out.weight"]


def test_frozen_head_is_found_too() -> None:
    model = Decoder(FOUND["plain"])
    model.out.requires_grad_(False)
    made = plan(model, IDS)
    assert (made["out.weight"].role, made["out.weight"].frozen) == ("head", True)


def test_all_ways_to_give_an_example() -> None:
    model = Decoder(FOUND["plain"])
    for example in (IDS, (IDS,), {"ids": IDS}):
        assert heads(model, example) == ["out.weight"]


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama-tied", "mixtral", "gpt-neox", "phi3"])
def test_published_models(name: str) -> None:
    model = zoo.published(name, device="cpu")
    without = {e.name: (e.role, e.reason) for e in stiefel.plan(model, "muon").values()}
    assert {e.name: (e.role, e.reason) for e in plan(model, IDS).values()} == without


def test_headless_backbones() -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("llama", "gpt2"):
        config = zoo.published(name).config
        assert heads(transformers.AutoModel.from_config(config), {"input_ids": IDS}) == []


def test_on_the_meta_device() -> None:
    transformers = pytest.importorskip("transformers")
    config = zoo.published("bert").config
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(config)
    assert heads(model, {"input_ids": IDS.to("meta")}) == ["classifier.weight"]


def test_convolution_that_sees_the_input() -> None:
    class TwoEyes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = nn.Conv1d(8, 8, 3)
            self.left, self.right = nn.Conv1d(16, 8, 3), nn.Conv1d(16, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.late(self.left(x - x.mean()) + self.right(x))

    made = plan(TwoEyes(), torch.randn(2, 16, 9))
    roles = {entry.name: entry.role for entry in made.values() if entry.parameter.ndim > 1}
    assert roles == {
        "late.weight": "head",
        "left.weight": "conv_first",
        "right.weight": "conv_first",
    }


def test_resnet() -> None:
    assert heads(zoo.ResNet(), torch.randn(2, 3, 32, 32)) == ["fc.weight"]


def test_the_model_stays_as_it_was() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)
            self.drop = nn.Dropout(0.5)
            self.out = nn.Linear(4, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            noise = torch.randn_like(x)
            return self.out(self.drop(self.norm(self.body(x + noise))))

    model = Stateful()
    model.norm.eval()
    model.body(torch.ones(1, 4)).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()}
    modes = [m.training for m in model.modules()]
    parameters = list(model.parameters())
    random = torch.get_rng_state()
    with torch.no_grad():
        assert heads(model, torch.ones(3, 4)) == ["out.weight"]
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, p in model.named_parameters():
        assert (p.grad is None) == (grads[name] is None)
        assert p.grad is None or torch.equal(p.grad, grads[name])


def test_an_example_that_does_not_fit() -> None:
    model = Decoder(FOUND["plain"]).train()
    with pytest.raises(StiefelError, match=r"the model failed on example= \(TypeError"):
        plan(model, {"wrong": IDS})
    assert all(m.training for m in model.modules())
