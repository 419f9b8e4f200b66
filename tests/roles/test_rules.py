"""One small model for every rule: the role, and the words that say how it was found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import stiefel
from stiefel.plan import Plan
from stiefel.roles import Role

pytestmark = pytest.mark.filterwarnings("ignore:matrix recipes step only")


def plan(model: nn.Module, **options: Any) -> Plan:
    return stiefel.plan(model, "muon", **options)


def module(**parts: Any) -> nn.Module:
    """A module with these children and parameters."""
    made = nn.Module()
    for name, part in parts.items():
        setattr(made, name, nn.Parameter(part) if type(part) is Tensor else part)
    return made


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def config(**numbers: Any) -> SimpleNamespace:
    return SimpleNamespace(**numbers)


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "role"),
    [
        ((), Role.SCALAR),
        ((1,), Role.SCALAR),
        ((1, 1, 1), Role.SCALAR),
        ((7,), Role.VECTOR),
        ((1, 1, 7), Role.VECTOR),
        ((7, 1, 1), Role.VECTOR),
        ((1, 5, 7), Role.POSITIONAL),
        ((1, 4, 5, 7), Role.POSITIONAL),
        ((5, 7), Role.UNKNOWN),
        ((3, 5, 7), Role.EXPERT),
        ((3, 5, 1), Role.UNKNOWN),
        ((2, 3, 5, 7), Role.UNKNOWN),
    ],
)
def test_bare_parameters_by_shape(shape: tuple[int, ...], role: Role) -> None:
    assert plan(module(thing=torch.zeros(shape)))["thing"].role is role


def test_linear_with_one_output_is_a_vector() -> None:
    assert plan(nn.Linear(8, 1))["weight"].role is Role.VECTOR


def test_stacked_biases_are_vectors() -> None:
    entry = plan(module(w=torch.zeros(4, 8, 6), w_bias=torch.zeros(4, 8)))["w_bias"]
    assert (entry.role, entry.reason) == (Role.VECTOR, "stacked biases, by name only")


# -- tables ----------------------------------------------------------------------------------------


def test_embeddings() -> None:
    made = plan(module(tokens=nn.Embedding(20, 8), bag=nn.EmbeddingBag(20, 8)))
    assert [entry.role for entry in made.values()] == [Role.EMBEDDING, Role.EMBEDDING]
    assert made["tokens.weight"].reason == "Embedding"


def test_tied_by_hand_in_either_order() -> None:
    head, table = linear(8, 20), nn.Embedding(20, 8)
    table.weight = head.weight
    made = plan(module(head=head, table=table, body=linear(8, 8)))
    assert list(made) == ["head.weight", "body.weight"]
    assert made["table.weight"] is made["head.weight"]
    assert made["head.weight"].role is Role.EMBEDDING
    assert made["head.weight"].tied == ("table.weight",)
    assert made["head.weight"].reason == "Embedding, tied with table.weight"


def test_rows_of_the_config_are_positions() -> None:
    model = module(a=nn.Embedding(50, 8), b=nn.Embedding(64, 8), c=torch.zeros(64, 8))
    model.config = config(block_size=64, vocab_size=50)
    made = plan(model)
    assert [e.role for e in made.values()] == [Role.POSITIONAL, Role.EMBEDDING, Role.POSITIONAL]
    assert made["b.weight"].reason == "one row per position (64)"


def test_as_many_tokens_as_positions_leaves_it_to_the_name() -> None:
    model = module(wte=nn.Embedding(64, 8), wpe=nn.Embedding(64, 8))
    model.config = config(block_size=64, vocab_size=64)
    made = plan(model)
    assert made["wte.weight"].role is Role.EMBEDDING
    assert (made["wpe.weight"].role, made["wpe.weight"].reason) == (
        Role.POSITIONAL,
        "position table, by name only",
    )


def test_what_the_model_calls_its_input_is_no_position_table() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Embedding(64, 8), nn.Embedding(64, 8)
            self.config = config(block_size=64)

        def get_input_embeddings(self) -> nn.Module:
            return self.b

    made = plan(Named())
    assert made["a.weight"].role is Role.POSITIONAL
    assert (made["b.weight"].role, made["b.weight"].reason) == (Role.EMBEDDING, "input embedding")


def test_relative_distances_of_t5() -> None:
    model = module(bias=nn.Embedding(32, 4))
    model.config = config(relative_attention_num_buckets=32)
    assert plan(model)["bias.weight"].reason == "one row per relative distance (32)"


def test_extra_rows_of_opt() -> None:
    table = nn.Embedding(66, 8)
    table.offset = 2
    model = module(table=table)
    model.config = {"max_position_embeddings": 64}
    assert plan(model)["table.weight"].role is Role.POSITIONAL


@pytest.mark.parametrize(
    "name", ["wpe", "pos", "pos_embed", "position_embeddings", "embed_positions", "rel_pos_h"]
)
def test_position_names(name: str) -> None:
    assert plan(module(**{name: nn.Embedding(5, 8)}))[f"{name}.weight"].role is Role.POSITIONAL
    assert plan(module(**{name: torch.zeros(5, 8)}))[name].role is Role.POSITIONAL


@pytest.mark.parametrize("name", ["compose", "transposed", "positionwise"])
def test_names_that_only_look_like_positions(name: str) -> None:
    assert plan(module(**{name: nn.Embedding(5, 8)}))[f"{name}.weight"].role is Role.EMBEDDING


def test_a_linear_map_is_never_positional() -> None:
    assert plan(module(linear_pos=linear(8, 8)))["linear_pos.weight"].role is Role.HIDDEN


# -- heads -----------------------------------------------------------------------------------------


def test_one_row_per_token() -> None:
    layers = nn.ModuleList([module(up=linear(8, 20))])
    made = plan(module(table=nn.Embedding(20, 8), layers=layers, out=linear(8, 20)))
    assert made["out.weight"].role is Role.HEAD
    assert made["out.weight"].reason == "one row per token (20)"
    assert made["layers.0.up.weight"].role is Role.HIDDEN


def test_a_tied_vocabulary_has_its_head_already() -> None:
    model = module(table=nn.Embedding(20, 8), tied=linear(8, 20), wide=linear(8, 20))
    model.tied.weight = model.table.weight
    assert plan(model)["wide.weight"].role is Role.HIDDEN


def test_positions_are_no_vocabulary() -> None:
    made = plan(module(wpe=nn.Embedding(16, 8), mix=linear(8, 16)))
    assert made["mix.weight"].role is Role.HIDDEN


def test_one_row_per_label() -> None:
    model = module(layers=nn.ModuleList([module(down=linear(8, 3))]), out=linear(8, 3))
    model.config = config(num_labels=3)
    made = plan(model)
    assert made["out.weight"].reason == "one row per label (3)"
    assert made["layers.0.down.weight"].role is Role.HIDDEN


@pytest.mark.parametrize("name", ["head", "lm_head", "classifier", "fc", "output", "embed_out"])
def test_head_names(name: str) -> None:
    entry = plan(module(body=linear(8, 8), **{name: linear(8, 3)}))[f"{name}.weight"]
    assert (entry.role, entry.reason) == (Role.HEAD, "Linear called a head, by name only")


def test_head_in_a_numbered_sequence() -> None:
    made = plan(module(classifier=nn.Sequential(nn.Dropout(), linear(8, 3))))
    assert made["classifier.1.weight"].role is Role.HEAD


def test_names_in_layers_and_longer_names_are_no_heads() -> None:
    layers = nn.ModuleList([module(fc=linear(8, 8)), module(output=linear(8, 8))])
    made = plan(module(layers=layers, fc1=linear(8, 8)))
    assert {entry.role for entry in made.values()} == {Role.HIDDEN}


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm((4, 8)),
        nn.LayerNorm((4, 8, 8)),
        nn.RMSNorm((4, 8)),
        nn.LayerNorm(8),
        nn.GroupNorm(2, 8),
        nn.BatchNorm2d(8),
    ],
)
def test_affine_parts_of_norms_are_no_matrices(norm: nn.Module) -> None:
    """Whatever their shape, and beside whatever has as many rows."""
    made = plan(module(norm=norm, w=torch.zeros(4, 8, 16), fc=linear(8, 8)))
    for entry in (made[name] for name in made if name.startswith("norm.")):
        assert entry.role == Role.VECTOR and entry.view is None
        assert entry.recipe.live["weight_decay"].default == 0


@pytest.mark.parametrize("hold", [nn.ModuleList, lambda found: nn.Sequential(*found)])
def test_work_grows_with_the_model_and_not_with_its_square(
    hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Visits of modules, for twice as many siblings: 800 took half a minute once."""
    visits = 0
    members = nn.Module.named_modules

    def counted(self: nn.Module, *args: Any, **options: Any) -> Any:
        nonlocal visits
        for found in members(self, *args, **options):
            visits += 1
            yield found

    monkeypatch.setattr(nn.Module, "named_modules", counted)
    counts = []
    for size in (40, 80):
        visits = 0
        plan(hold([nn.Linear(8, 8) for _ in range(size)]))
        counts.append(visits)
    assert counts[1] < 2.5 * counts[0]


# -- experts and routers ---------------------------------------------------------------------------


def moe(**router: Any) -> nn.Module:
    return module(
        layers=nn.ModuleList(
            [module(mlp=module(experts=module(w=torch.zeros(4, 8, 16)), **router))]
        )
    )


def test_router_beside_a_stack() -> None:
    for router in ({"choose": linear(16, 4)}, {"choose": module(w=torch.zeros(4, 16))}):
        made = plan(moe(**router))
        (entry,) = (e for e in made.values() if "choose" in e.name)
        assert (entry.role, entry.reason) == (Role.ROUTER, "one row per expert (4)")


def test_router_held_with_its_stack() -> None:
    made = plan(module(choose=torch.zeros(4, 16), w=torch.zeros(4, 8, 16)))
    assert [entry.role for entry in made.values()] == [Role.ROUTER, Role.EXPERT]
    assert str(made["w"].view) == "stack 4x8x16"
    assert made["w"].reason == "stack of 4 matrices, by shape only"


def test_other_sizes_are_no_router() -> None:
    made = plan(moe(a=linear(16, 5), b=linear(7, 4)))
    assert made["layers.0.mlp.a.weight"].role is Role.HIDDEN
    assert made["layers.0.mlp.b.weight"].role is Role.HIDDEN


def test_router_beside_a_list_of_experts() -> None:
    experts = nn.ModuleList([nn.Sequential(linear(16, 8), linear(8, 16)) for _ in range(4)])
    made = plan(module(mlp=module(choose=linear(16, 4), experts=experts)))
    assert made["mlp.choose.weight"].role is Role.ROUTER
    assert made["mlp.experts.3.0.weight"].role is Role.HIDDEN


def test_ten_layers_and_ten_classes_are_no_router() -> None:
    layers = nn.ModuleList([nn.Sequential(linear(16, 16)) for _ in range(10)])
    assert plan(module(layers=layers, head=linear(16, 10)))["head.weight"].role is Role.HEAD


def test_a_convolution_is_no_stack_of_experts() -> None:
    made = plan(module(conv=nn.Conv1d(16, 16, 3), mix=linear(16, 16)))
    assert made["mix.weight"].role is Role.HIDDEN


def test_router_by_name() -> None:
    entry = plan(module(mlp=module(router=linear(16, 4))))["mlp.router.weight"]
    assert (entry.role, entry.reason) == (Role.ROUTER, "called a router, by name only")


# -- low rank --------------------------------------------------------------------------------------


def test_low_rank_pair_by_structure() -> None:
    made = plan(module(layer=module(base=nn.Linear(16, 12), a=linear(16, 2), b=linear(2, 12))))
    assert made["layer.a.weight"].role is Role.LOW_RANK
    assert made["layer.b.weight"].reason == "rank-2 pair beside its matrix"
    assert made["layer.base.weight"].role is Role.HIDDEN


def test_low_rank_parameters_of_a_linear_map() -> None:
    layer = nn.Linear(16, 16)
    layer.a, layer.b = nn.Parameter(torch.zeros(2, 16)), nn.Parameter(torch.zeros(16, 2))
    roles = {e.name: e.role for e in plan(module(layer=layer)).values()}
    assert (roles["layer.a"], roles["layer.b"]) == (Role.LOW_RANK, Role.LOW_RANK)
    assert roles["layer.weight"] is Role.HIDDEN


def test_low_rank_pair_stored_inputs_first() -> None:
    made = plan(module(w=linear(16, 12), a=torch.zeros(16, 2), b=torch.zeros(2, 12)))
    assert [entry.role for entry in made.values()].count(Role.LOW_RANK) == 2


@pytest.mark.parametrize(
    "parts",
    [
        {"base": linear(16, 12), "a": nn.Linear(16, 2), "b": linear(2, 12)},  # a bias
        {"base": linear(16, 12), "a": linear(16, 8), "b": linear(8, 12)},  # no small rank
        {"base": linear(16, 12), "a": linear(16, 2), "b": linear(3, 12)},  # no pair
        {"base": linear(16, 12), "a": linear(16, 2), "b": linear(2, 12), "c": linear(9, 9)},
    ],
)
def test_what_is_no_low_rank_pair(parts: dict[str, nn.Module]) -> None:
    assert {e.role for e in plan(module(layer=module(**parts))).values()} <= {
        Role.HIDDEN,
        Role.VECTOR,
    }


def test_a_bottleneck_in_sequence_is_no_low_rank_pair() -> None:
    chain = nn.Sequential(linear(16, 2), linear(2, 16), linear(16, 16))
    assert {entry.role for entry in plan(chain).values()} == {Role.HIDDEN}


def test_a_factorised_language_model_is_no_low_rank_pair() -> None:
    made = plan(module(tokens=nn.Embedding(30, 16), down=linear(16, 4), out=linear(4, 30)))
    assert [entry.role for entry in made.values()] == [Role.EMBEDDING, Role.HIDDEN, Role.HEAD]


def test_low_rank_names_of_peft() -> None:
    adapter = module(
        base_layer=nn.Embedding(30, 8),
        lora_A=nn.ModuleDict({"default": linear(8, 2)}),
        lora_embedding_B=nn.ParameterDict({"default": torch.zeros(8, 2)}),
    )
    made = plan(module(q_proj=adapter))
    assert made["q_proj.lora_A.default.weight"].role is Role.LOW_RANK
    assert made["q_proj.lora_embedding_B.default"].reason == "LoRA factor, by name only"


# -- modules of torch ------------------------------------------------------------------------------


def test_first_convolution() -> None:
    made = plan(nn.Sequential(nn.Conv1d(12, 8, 3), nn.Conv1d(8, 8, 3), nn.Conv1d(1, 8, 3)))
    assert [entry.role for entry in made.values() if entry.parameter.ndim > 1] == [
        Role.CONV_FIRST,  # nothing comes before it
        Role.CONV,
        Role.CONV_FIRST,  # a single channel: a waveform
    ]


def test_a_convolution_of_embeddings_is_not_first() -> None:
    made = plan(nn.Sequential(nn.Embedding(20, 8), nn.Conv1d(8, 8, 3)))
    assert made["1.weight"].role is Role.CONV


def test_bilinear_cells_and_unfused_attention() -> None:
    made = plan(
        module(
            bilinear=nn.Bilinear(5, 6, 7),
            cell=nn.RNNCell(5, 6),
            attention=nn.MultiheadAttention(8, 2, kdim=6, add_bias_kv=True),
        )
    )
    assert str(made["bilinear.weight"].view) == "stack 7x5x6"
    assert str(made["cell.weight_ih"].view) == "matrix 6x5"
    assert str(made["attention.k_proj_weight"].view) == "matrix 8x6"
    assert made["attention.bias_k"].role is Role.VECTOR
    assert {e.role for e in made.values()} == {Role.HIDDEN, Role.VECTOR}


def test_a_module_that_says_it_is_linear() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features = 6, 5
            self.weight = nn.Parameter(torch.zeros(5, 6))

    entry = plan(Quantised())["weight"]
    assert (entry.role, entry.reason) == (Role.HIDDEN, "Quantised")


def test_parametrised_weights_belong_to_their_module() -> None:
    normed = parametrizations.weight_norm(nn.Linear(6, 5))
    made = plan(module(normed=normed))
    assert made["normed.parametrizations.weight.original0"].role is Role.VECTOR
    assert made["normed.parametrizations.weight.original1"].role is Role.HIDDEN
    conv = nn.Conv2d(8, 8, 3, groups=8)
    parametrize.register_parametrization(conv, "weight", nn.Identity())
    assert plan(conv)["parametrizations.weight.original"].role is Role.CONV_DEPTHWISE


def test_embedding_by_name() -> None:
    entry = plan(module(tok_emb=torch.zeros(20, 8)))["tok_emb"]
    assert (entry.role, entry.reason) == (Role.EMBEDDING, "token table, by name only")
