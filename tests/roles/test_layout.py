"""Fused layouts against the forward pass of the real module: a block of the view is what it says.

With the query block at zero all scores are equal, so a causal attention averages the values that
the value block makes: the module's own forward says whether the view cut in the right places.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stiefel
from stiefel.plan import Entry
from stiefel.views import View
from tests.roles import zoo

IDS = torch.arange(14).view(2, 7)
FALCON = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 100}
CODE = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 100, "n_positions": 64}

# name: architecture, sizes, fused projection, output projection, query heads, key-value heads
ATTENTION: dict[str, tuple[str, dict[str, Any], str, str, int, int]] = {
    "gpt2": ("GPT2LMHeadModel", CODE, "c_attn", "attn.c_proj", 4, 4),
    "gpt-neox": ("GPTNeoXForCausalLM", zoo.MHA, "query_key_value", "attention.dense", 4, 4),
    "phi3": ("Phi3ForCausalLM", zoo.GQA, "qkv_proj", "o_proj", 4, 2),
    "falcon-new": (
        "FalconForCausalLM",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
        *("query_key_value", "self_attention.dense", 4, 2),
    ),
    "falcon-multi-query": (
        "FalconForCausalLM",
        {**FALCON, "multi_query": True, "num_kv_heads": 4},
        *("query_key_value", "self_attention.dense", 4, 1),
    ),
    "falcon-old": (
        "FalconForCausalLM",
        {**FALCON, "multi_query": False},
        *("query_key_value", "self_attention.dense", 4, 4),
    ),
    "starcoder": ("GPTBigCodeForCausalLM", CODE, "c_attn", "attn.c_proj", 4, 1),
    "starcoder-mha": (
        "GPTBigCodeForCausalLM",
        {**CODE, "multi_query": False},
        *("c_attn", "attn.c_proj", 4, 4),
    ),
    "persimmon": ("PersimmonForCausalLM", zoo.MHA, "query_key_value", "self_attn.dense", 4, 4),
}


def build(architecture: str, sizes: dict[str, Any]) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    make = getattr(transformers, architecture)
    model: nn.Module = make(make.config_class(**{**zoo.NO_TOKENS, **sizes})).eval()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(p)
    return model


def only(model: nn.Module, ending: str) -> Entry:
    """The first entry whose module is called ``ending``."""
    plan = stiefel.plan(model, "muon")
    return next(e for e in plan.values() if e.name.removesuffix(".weight").endswith(ending))


def blocks(entry: Entry) -> dict[str, Tensor]:
    assert entry.view is not None
    parts = entry.view.split(entry.parameter.detach().clone())
    return dict(zip((b.name for b in entry.view.blocks), parts, strict=True))


@torch.no_grad()
def without(entry: Entry, name: str, original: Tensor) -> None:
    """Set one block of a parameter to zero."""
    assert isinstance(entry.view, View)
    parts = zip(entry.view.blocks, entry.view.split(original.clone()), strict=True)
    entry.view.join([p * (b.name != name) for b, p in parts], out=entry.parameter.data)


def seen(model: nn.Module, fused: str, output: str) -> tuple[Tensor, Tensor]:
    """What went into the fused projection and into the output projection of the first layer."""
    inputs: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    for key in (fused, output):
        module = next(m for name, m in modules.items() if name.endswith(key))
        module.register_forward_pre_hook(
            lambda _, args, key=key: inputs.setdefault(key, args[0].detach())
        )
    model(IDS)
    return inputs[fused], inputs[output]


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("zeroed", ["q", "k"])
def test_fused_qkv_is_cut_where_the_module_cuts(name: str, zeroed: str) -> None:
    architecture, sizes, fused, output, q, kv = ATTENTION[name]
    model = build(architecture, sizes)
    entry = only(model, fused)
    original = entry.parameter.detach().clone()
    values = blocks(entry)["v"]
    without(entry, zeroed, original)
    x, mixed = seen(model, fused, output)
    v = (x @ values.T).unflatten(-1, (kv, -1)).repeat_interleave(q // kv, dim=-2).flatten(-2)
    running_mean = v.cumsum(1) / torch.arange(1, v.shape[1] + 1)[:, None]
    torch.testing.assert_close(mixed.reshape(running_mean.shape), running_mean)


def test_bloom_without_values_gives_nothing() -> None:
    model = build(
        "BloomForCausalLM", {"vocab_size": 100, "hidden_size": 32, "n_layer": 1, "n_head": 4}
    )
    entry = only(model, "query_key_value")
    without(entry, "v", entry.parameter.detach().clone())
    x, mixed = seen(model, "query_key_value", "self_attention.dense")
    assert x.abs().max() > 0
    assert mixed.abs().max() == 0


def test_codegen_is_left_whole() -> None:
    model = build("CodeGenForCausalLM", {**CODE, "rotary_dim": 4})
    entry = only(model, "qkv_proj")
    assert str(entry.view) == "matrix 96x32"
    assert "in shards" in entry.reason


def test_phi3_gate_and_up() -> None:
    model = build("Phi3ForCausalLM", zoo.GQA)
    mlp = model.model.layers[0].mlp
    parts = blocks(only(model, "gate_up_proj"))
    x = torch.randn(5, 32)
    ours = mlp.down_proj(nn.functional.silu(x @ parts["gate"].T) * (x @ parts["up"].T))
    torch.testing.assert_close(mlp(x), ours)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_experts_gate_and_up(name: str) -> None:
    model = zoo.published(name, device="cpu")
    experts = model.model.layers[0].mlp.experts
    plan = stiefel.plan(model, "muon")
    for p in experts.parameters():
        nn.init.normal_(p, std=0.1)
    parts = blocks(plan["model.layers.0.mlp.experts.gate_up_proj"])
    (down,) = blocks(plan["model.layers.0.mlp.experts.down_proj"]).values()
    x, chosen = torch.randn(3, 32), torch.tensor([[2], [0], [3]])
    inner = [
        nn.functional.silu(parts["gate"][e] @ v) * (parts["up"][e] @ v)
        for v, e in zip(x, chosen[:, 0], strict=True)
    ]
    ours = torch.stack([down[e] @ h for h, e in zip(inner, chosen[:, 0], strict=True)])
    torch.testing.assert_close(experts(x, chosen, torch.ones(3, 1)), ours)


def test_gpt_oss_experts_alternate_gate_and_up() -> None:
    model = zoo.published("gpt-oss", device="cpu")
    experts = model.model.layers[0].mlp.experts
    for p in experts.parameters():
        nn.init.normal_(p, std=0.1)
        nn.init.zeros_(p) if p.ndim == 2 else None
    plan = stiefel.plan(model, "muon")
    parts = blocks(plan["model.layers.0.mlp.experts.gate_up_proj"])
    (down,) = blocks(plan["model.layers.0.mlp.experts.down_proj"]).values()
    x = torch.randn(1, 32)
    gate, up = parts["gate"][1] @ x[0], parts["up"][1] @ x[0]
    ours = down[1] @ ((up + 1) * gate * torch.sigmoid(gate * experts.alpha))
    theirs = experts(x, torch.tensor([[1]]), torch.ones(1, 1))
    torch.testing.assert_close(theirs[0], ours)


def test_llama4_experts_are_transposed_by_their_shapes() -> None:
    experts = pytest.importorskip("transformers.models.llama4.modeling_llama4").Llama4TextExperts
    config = pytest.importorskip("transformers").Llama4TextConfig(
        hidden_size=32, intermediate_size=48, num_local_experts=4
    )
    module = experts(config)
    for p in module.parameters():
        nn.init.normal_(p, std=0.1)
    plan = stiefel.plan(module, "muon")
    parts = blocks(plan["gate_up_proj"])
    (down,) = blocks(plan["down_proj"]).values()
    x = torch.randn(4, 2, 32)
    gated = nn.functional.silu(x @ parts["gate"].mT) * (x @ parts["up"].mT)
    torch.testing.assert_close(module(x.view(-1, 32)), (gated @ down.mT).view(-1, 32))


def test_lstm_gates() -> None:
    module = nn.LSTM(6, 5, bias=False)
    plan = stiefel.plan(module, "muon")
    of_input = blocks(plan["weight_ih_l0"])
    x = torch.randn(1, 6)
    i, f, g, o = (of_input[name] @ x[0] for name in "ifgo")
    cell = torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    torch.testing.assert_close(module(x)[0][0], hidden)
    assert f.shape == (5,)


def test_gru_cell_gates() -> None:
    plan = stiefel.plan(nn.GRUCell(6, 5), "muon")
    assert str(plan["weight_hh"].view) == "gates r 5x5, z 5x5, n 5x5"


def test_attention_of_torch() -> None:
    module = nn.MultiheadAttention(8, 2, bias=False)
    entry = stiefel.plan(module, "muon")["in_proj_weight"]
    x = torch.randn(3, 8)
    without(entry, "q", entry.parameter.detach().clone())
    v = blocks(entry)["v"]
    torch.testing.assert_close(
        module(x, x, x)[0], module.out_proj((x @ v.T).mean(0, keepdim=True).expand(3, 8))
    )


class Attention(nn.Module):
    """A fused projection as people write it, with whatever head counts the test states."""

    def __init__(self, name: str, outputs: int, **stated: int) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(32, outputs, bias=False))
        for key, value in stated.items():
            setattr(self, key, value)


def fused(name: str, outputs: int, **stated: int) -> Entry:
    model = nn.Sequential(Attention(name, outputs, **stated))
    return stiefel.plan(model, "muon")[f"0.{name}.weight"]


@pytest.mark.parametrize(
    ("name", "outputs", "stated", "view"),
    [
        ("qkv", 96, {}, "qkv q 32x32, k 32x32, v 32x32"),
        ("c_attn", 96, {"n_head": 4}, "qkv q 32x32, k 32x32, v 32x32"),
        ("c_attn", 64, {}, "kv k 32x32, v 32x32"),
        ("Wqkv", 64, {"n_heads": 4, "num_kv_heads": 2}, "qkv q 32x32, k 16x32, v 16x32"),
        (
            "qkv_proj",
            128,
            {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16},
            "qkv q 64x32, k 32x32, v 32x32",
        ),
    ],
)
def test_stated_head_counts(name: str, outputs: int, stated: dict[str, int], view: str) -> None:
    assert str(fused(name, outputs, **stated).view) == view


@pytest.mark.parametrize(
    ("name", "outputs", "stated"),
    [
        ("query_key_value", 96, {}),  # interleaved: thirds would be wrong
        ("qkv", 64, {}),
        ("qkv", 64, {"num_heads": 4}),
        ("qkv", 48, {"num_heads": 4}),  # thirds would fit, but q of 16 rows for 32 inputs is odd
        ("qkv", 64, {"num_heads": 4, "num_kv_heads": 3}),
        ("qkv", 64, {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16}),
    ],
)
def test_unknown_head_counts_are_not_guessed(
    name: str, outputs: int, stated: dict[str, int]
) -> None:
    entry = fused(name, outputs, **stated)
    assert str(entry.view) == f"matrix {outputs}x32"
    assert "head counts unknown" in entry.reason


def test_gate_up_needs_a_sibling_that_takes_half() -> None:
    class Plain(nn.Module):
        def __init__(self, inner: int) -> None:
            super().__init__()
            self.Wi, self.Wo = nn.Linear(32, 96), nn.Linear(inner, 32)

    assert str(stiefel.plan(Plain(48), "muon")["Wi.weight"].view) == (
        "gate_up gate 48x32, up 48x32"
    )
    assert str(stiefel.plan(Plain(96), "muon")["Wi.weight"].view) == "matrix 96x32"
