"""The rules that give a parameter its role.

A rule is a function of what is known of one parameter. It returns a role and the reason in a few
words, or None when it has nothing to say. The first rule with an answer wins, so the order of
`_rules` is the order of certainty: shapes that leave no choice, then tables, then what makes the
output, then structure, then names, and last the fact that something is a linear map at all. A rule
that trusts a name says "by name only".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from torch import nn

from stiefel.roles.role import Role
from stiefel.roles.survey import Conv, Known, numbers

__all__ = ["Finding", "find_roles"]

Finding: TypeAlias = tuple[Role, str]
Rule: TypeAlias = Callable[[Known], Finding | None]
Shape: TypeAlias = tuple[int, ...]

POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_source_positions",
    "max_target_positions",
    "block_size",
    "max_seq_len",
)
# An image or a waveform has so few channels; activations have more.
INPUT_CHANNELS = 3
POSITION_NAME = r"(^|_)(pos|posemb|positions?|positional|relative_attention|wpe)(_|$)"
HEAD_NAME = r"(\w+_)?head|classifier|fc|score|logits|output|unembed|embed_out|proj_out"
EMBEDDING_NAME = r"embed|wte|tok_emb"
BY_SHAPE = ", by shape only"


def find_roles(everything: Sequence[Known]) -> dict[str, Finding]:
    """The role of every parameter by its name, and the reason."""
    tables = [known for known in everything if _ask(TABLE_RULES, known)[0] is Role.EMBEDDING]
    rules = _rules({known.shape[0] for known in tables if not known.tied})
    return {known.name: _ask(rules, known) for known in everything}


def _ask(rules: Iterable[Rule], known: Known) -> Finding:
    answers = (rule(known) for rule in rules)
    role, reason = next(filter(None, answers), (Role.UNKNOWN, "not recognised"))
    from_names = known.survey.names_only and "by name only" not in reason
    return role, f"{reason.removesuffix(BY_SHAPE)}, by name only" if from_names else reason


# -- shapes that leave no choice -------------------------------------------------------------------


def scalar(known: Known) -> Finding | None:
    """One entry."""
    return (Role.SCALAR, "one entry") if known.parameter.numel() == 1 else None


def vector(known: Known) -> Finding | None:
    """At most one dimension longer than 1: `[n]`, `[1, n]`, `[1, 1, n]`."""
    if known.extent > 1:
        return None
    return Role.VECTOR, "1-D" if len(known.shape) == 1 else "one dimension longer than 1"


def gain(known: Known) -> Finding | None:
    """Gain or bias of a normalisation; `nn.LayerNorm` over several dimensions has matrices."""
    return (Role.VECTOR, f"{known.local} of a {known.kind}") if known.is_gain else None


def bias_stack(known: Known) -> Finding | None:
    """One bias for every expert `[e, m]`: no matrix, though it has two dimensions."""
    if known.is_bare and re.search(r"(^|_)bias$", known.local):
        return Role.VECTOR, "stacked biases, by name only"
    return None


# -- low-rank updates ------------------------------------------------------------------------------


def lora_name(known: Known) -> Finding | None:
    """The names that PEFT gives: ``lora_A``, ``lora_embedding_B``."""
    named = any(re.fullmatch(r"lora_(embedding_)?[AB]", part) for part in known.path)
    return (Role.LOW_RANK, "LoRA factor, by name only") if named else None


def low_rank_pair(known: Known) -> Finding | None:
    """`[r, n]` and `[m, r]` without biases, and nothing else, beside a linear map `[m, n]`."""
    block = known.block
    if block is None or len(block.matrices) != 3 or _is_chain(block.module):
        return None
    *factors, whole = sorted(block.matrices, key=lambda p: p.numel())
    if known.parameter is whole or _biased(block.module, whole):
        return None
    rank = min(known.shape)
    if not _is_pair(rank, [tuple(p.shape) for p in factors], tuple(whole.shape)):
        return None
    return Role.LOW_RANK, f"rank-{rank} pair beside its matrix"


def _is_chain(block: nn.Module) -> bool:
    """Matrices one after the other, which can have the same shapes as a pair beside a matrix."""
    tables = any(isinstance(module, nn.Embedding) for module in block.modules())
    return tables or isinstance(block, nn.Sequential)


def _biased(block: nn.Module, whole: nn.Parameter) -> bool:
    maps = [m for m in block.modules() if isinstance(m, nn.Linear) and m.weight is not whole]
    return any(module.bias is not None for module in maps)


def _is_pair(rank: int, factors: list[Shape], whole: Shape) -> bool:
    """Whether these are the two factors of an update of ``whole``, in either orientation."""
    if len(whole) != 2:
        return False
    m, n = whole
    wanted = ({(rank, n), (m, rank)}, {(rank, m), (n, rank)})
    return 2 * rank <= min(m, n) and set(factors) in wanted


# -- tables ----------------------------------------------------------------------------------------


def input_embedding(known: Known) -> Finding | None:
    """What the model itself calls its input embedding."""
    if known.is_table and id(known.parameter) in known.survey.inputs:
        return Role.EMBEDDING, "input embedding" + _twin(known)
    return None


def row_per_position(known: Known) -> Finding | None:
    """As many rows as the config has positions (OPT and BART keep a few more: ``offset``)."""
    if not (known.is_table or known.is_bare) or known.parameter.ndim != 2:
        return None
    rows = known.shape[0] - sum(numbers(known.owner, ("offset",)))
    if rows in known.config(*POSITIONS) - known.config("vocab_size"):
        return Role.POSITIONAL, f"one row per position ({rows})"
    return None


def row_per_distance(known: Known) -> Finding | None:
    """The relative position bias of T5: one row for every bucket of distances."""
    rows = known.shape[0]
    if known.is_table and rows in known.config("relative_attention_num_buckets"):
        return Role.POSITIONAL, f"one row per relative distance ({rows})"
    return None


def added_to_activations(known: Known) -> Finding | None:
    """`[1, positions, n]`: the leading 1 stands for the batch."""
    if known.is_bare and known.shape[0] == 1:
        return Role.POSITIONAL, "leading 1: added to a batch"
    return None


def position_name(known: Known) -> Finding | None:
    """``wpe``, ``pos_embed``, ``relative_position_bias_table``."""
    name = known.module_name if known.is_table else known.local
    if (known.is_table or known.is_bare) and re.search(POSITION_NAME, name):
        return Role.POSITIONAL, "position table, by name only"
    return None


def table(known: Known) -> Finding | None:
    """Any other embedding, token types included."""
    if known.is_table:
        return Role.EMBEDDING, "Embedding" + _twin(known)
    return None


def embedding_name(known: Known) -> Finding | None:
    """A bare tensor called an embedding."""
    if known.is_bare and known.parameter.ndim == 2 and re.search(EMBEDDING_NAME, known.local):
        return Role.EMBEDDING, "token table, by name only"
    return None


def _twin(known: Known) -> str:
    """How a table also serves as the head."""
    if known.tied:
        more = f" and {len(known.tied) - 1} more" if len(known.tied) > 1 else ""
        return f", tied with {known.tied[-1]}{more}"
    return ", also makes the output" if _makes_output(known) else ""


# -- what makes the output -------------------------------------------------------------------------


def output_embedding(known: Known) -> Finding | None:
    """What the model itself calls its output embedding."""
    if id(known.parameter) in known.survey.outputs:
        return Role.HEAD, "output embedding"
    return None


def makes_output(known: Known) -> Finding | None:
    """What the run on the example found."""
    return (Role.HEAD, "makes the output of the example") if _makes_output(known) else None


def row_per_label(known: Known) -> Finding | None:
    """A linear map outside the layers with as many rows as the config has labels."""
    rows = known.shape[0]
    if known.is_linear and not known.in_layer and rows in known.config("num_labels"):
        return Role.HEAD, f"one row per label ({rows})"
    return None


def row_per_token(vocabularies: set[int]) -> Rule:
    """A linear map outside the layers with as many rows as an untied embedding."""

    def rule(known: Known) -> Finding | None:
        rows = known.shape[0]
        if known.is_linear and not known.in_layer and rows in vocabularies:
            return Role.HEAD, f"one row per token ({rows})"
        return None

    return rule


def _makes_output(known: Known) -> bool:
    return known.survey.trace is not None and known.name in known.survey.trace.heads


# -- structure -------------------------------------------------------------------------------------


def router(known: Known) -> Finding | None:
    """`[e, n]` beside a stack of e experts that takes n inputs."""
    if known.block is None or not _may_route(known):
        return None
    experts, inputs = known.shape
    if any(stack[0] == experts and inputs in stack[1:] for stack in known.block.stacks):
        return Role.ROUTER, f"one row per expert ({experts})"
    return None


def _may_route(known: Known) -> bool:
    return known.parameter.ndim == 2 and (known.is_linear or known.is_bare)


def convolution(known: Known) -> Finding | None:
    """Depthwise (no matrix), first (it sees the input), or any other convolution."""
    module = known.owner
    if not isinstance(module, Conv):
        return None
    kind = known.kind
    if module.groups == module.in_channels and module.groups > 1:
        return Role.CONV_DEPTHWISE, f"depthwise {kind}"
    if _sees_input(known, module):
        return Role.CONV_FIRST, f"{kind} that sees the input"
    return Role.CONV, kind if module.groups == 1 else f"{kind} in {module.groups} groups"


def _sees_input(known: Known, module: Conv) -> bool:
    if known.survey.trace is not None:
        return known.name in known.survey.trace.first_convs
    return id(known.parameter) == known.survey.stem or module.in_channels <= INPUT_CHANNELS


def torch_module(known: Known) -> Finding | None:
    """Attention, recurrent and bilinear modules of torch."""
    kinds = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
    if isinstance(known.owner, kinds):
        return Role.HIDDEN, known.kind
    return None


def expert_stack(known: Known) -> Finding | None:
    """A bare tensor `[e, m, n]`."""
    if known.is_bare and known.parameter.ndim == 3 and min(known.shape) > 1:
        return Role.EXPERT, f"stack of {known.shape[0]} matrices{BY_SHAPE}"
    return None


# -- names, and last what is at least linear -------------------------------------------------------


def head_name(known: Known) -> Finding | None:
    """``lm_head``, ``classifier``, ``fc`` outside the layers, when no example can tell."""
    if not known.is_linear or known.in_layer or known.survey.trace is not None:
        return None
    words = [part for part in known.path[:-1] if not part.isdigit()]
    if words and re.fullmatch(HEAD_NAME, words[-1]):
        return Role.HEAD, f"{known.kind} called a head, by name only"
    return None


def router_name(known: Known) -> Finding | None:
    """``router`` where no experts were found beside it."""
    if _may_route(known) and "router" in known.path[-2:]:
        return Role.ROUTER, "called a router, by name only"
    return None


def row_per_module(known: Known) -> Finding | None:
    """`[e, n]` beside a list of e modules of one class, such as experts kept apart."""
    if known.block is None or not _may_route(known):
        return None
    if known.shape[0] in known.block.lists:
        return Role.ROUTER, f"one row per module of a list ({known.shape[0]})"
    return None


def linear(known: Known) -> Finding | None:
    """A linear map of which nothing else is known."""
    if known.is_linear or known.is_conv1d:
        return Role.HIDDEN, known.kind
    return None


TABLE_RULES: Final[tuple[Rule, ...]] = (
    scalar,
    vector,
    gain,
    bias_stack,
    lora_name,
    low_rank_pair,
    input_embedding,
    row_per_position,
    row_per_distance,
    added_to_activations,
    position_name,
    table,
    embedding_name,
)


def _rules(vocabularies: set[int]) -> tuple[Rule, ...]:
    """All rules, the most certain first."""
    return (
        *TABLE_RULES,
        output_embedding,
        makes_output,
        row_per_label,
        row_per_token(vocabularies),
        router,
        convolution,
        torch_module,
        expert_stack,
        head_name,
        router_name,
        row_per_module,
        linear,
    )
