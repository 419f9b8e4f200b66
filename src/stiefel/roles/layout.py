"""The rules that say which matrices a tensor holds.

As in `stiefel.roles.rules`, the first rule with an answer wins. An answer is a view rule of
`stiefel.views` and a note for the plan's reason (empty when the view says it all). Layouts of
fused tensors cannot be seen in a shape: they are facts about published models, read in their
sources, and head counts come from the nearest module or config that states them. Where the counts
are missing or do not fit, nothing is guessed: the tensor stays one matrix and the note says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from torch import nn

from stiefel import views
from stiefel.roles.survey import Conv, Known, numbers
from stiefel.views import View, ViewRule

__all__ = ["layout"]

Layout: TypeAlias = tuple[ViewRule, str]
Rule: TypeAlias = Callable[[Known], Layout | None]

GATES = {nn.LSTM: "ifgo", nn.LSTMCell: "ifgo", nn.GRU: "rzn", nn.GRUCell: "rzn"}
# Modules whose output is cut into all q, then all k, then all v.
IN_ORDER = ("qkv_proj", "Wqkv", "c_attn", "qkv", "att_proj", "qkv_linear")
# Ordered by key-value group instead: the Megatron layout (GPT-NeoX, BLOOM, Falcon, Persimmon).
BY_GROUP = ("query_key_value",)
# Attention classes that do not follow the name of their projection.
BY_GROUP_CLASSES = ("GPTBigCodeAttention", "MiniMaxLightningAttention")
IN_SHARDS_CLASSES = ("CodeGenAttention",)
GATE_UP = ("gate_up_proj", "gate_up", "Wi")
Q_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads", "kv_n_heads", "n_kv_heads")
HEAD_SIZE = ("head_dim", "head_size", "attention_head_size")


def layout(known: Known) -> tuple[View | None, str]:
    """The view of a parameter and a note on how it was found; no view below two dimensions."""
    if known.parameter.ndim < 2:
        return None, ""
    rule, note = next(filter(None, (ask(known) for ask in RULES)))
    return rule(known.shape), note


def convolution(known: Known) -> Layout | None:
    """The kernel's groups, transposed or not."""
    module = known.owner
    if not isinstance(module, Conv):
        return None
    make = views.conv_transpose if module.transposed else views.conv
    return make(module.groups), ""


def gates(known: Known) -> Layout | None:
    """Four gates of an LSTM, three of a GRU; the projection ``weight_hr`` is plain."""
    names = next((names for kind, names in GATES.items() if isinstance(known.owner, kind)), "")
    if names and known.local.startswith(("weight_ih", "weight_hh")):
        return views.chunks(*names, name="gates"), ""
    return None


def attention(known: Known) -> Layout | None:
    """The three projections that `nn.MultiheadAttention` fuses when their sizes agree."""
    fused = isinstance(known.owner, nn.MultiheadAttention) and known.local == "in_proj_weight"
    return (views.qkv(), "") if fused else None


# -- fused query, key and value --------------------------------------------------------------------


@dataclass(frozen=True)
class Heads:
    """Head counts as stated by a module; ``kv`` and ``size`` are None where it does not say."""

    q: int
    kv: int | None
    size: int | None

    def fit(self, outputs: int, inputs: int) -> bool:
        """Whether a fused projection of ``inputs`` to ``outputs`` features has these heads."""
        kv = self.kv or self.q
        if self.q % kv or outputs % (self.q + 2 * kv):
            return False
        if self.size is not None:
            return outputs == (self.q + 2 * kv) * self.size
        return self.kv is not None or outputs == 3 * inputs


def fused_qkv(known: Known) -> Layout | None:
    """A projection that is called a fused one, cut as its head counts say."""
    if known.module_name not in IN_ORDER + BY_GROUP or not (known.is_linear or known.is_conv1d):
        return None
    outputs, inputs = known.shape if known.is_linear else known.shape[::-1]
    stored = "rows" if known.is_linear else "cols"
    if outputs == 2 * inputs and known.module_name == "c_attn":  # cross-attention of GPT-2
        return views.chunks("k", "v", stored=stored, name="kv"), "k and v fused, by name"
    heads = _heads(known)
    if _order(known) == "in shards":
        return views.matrix, "q, k, v fused in shards: taken as one matrix"
    if heads and heads.fit(outputs, inputs):
        return _qkv(heads, _order(known), stored)
    if _order(known) == "in order" and outputs == 3 * inputs and heads is None:
        return views.qkv(stored=stored), "q, k, v fused in order, by name"
    plain = views.matrix if known.is_linear else views.transposed
    return plain, "q, k, v fused, head counts unknown: taken as one matrix"


def _order(known: Known) -> str:
    parent = type(known.ancestors[1]).__name__
    if parent in IN_SHARDS_CLASSES:
        return "in shards"
    by_group = known.module_name in BY_GROUP or parent in BY_GROUP_CLASSES
    return "by group" if by_group else "in order"


def _qkv(heads: Heads, order: str, stored: str) -> Layout:
    kv = heads.kv or heads.q
    rule = views.qkv(heads.q, kv, interleaved=order == "by group", stored=stored)
    return rule, f"{heads.q} q and {kv} kv heads fused {order}, by name"


def _heads(known: Known) -> Heads | None:
    """Head counts from the attention module outwards; a module's word goes before its config's."""
    for module in known.ancestors[1:]:
        q, kv, size = (_first(module, names) for names in (Q_HEADS, KV_HEADS, HEAD_SIZE))
        if q is not None:
            return Heads(q, kv, size)
    return None


def _first(module: nn.Module, names: tuple[str, ...]) -> int | None:
    stated = numbers(module, names) + numbers(getattr(module, "config", None), names)
    return next(iter(stated), None)


# -- gated MLPs and experts ------------------------------------------------------------------------


def fused_gate_up(known: Known) -> Layout | None:
    """Gate and up projection in one weight: a linear map of which its sibling takes half."""
    if known.module_name not in GATE_UP or not known.is_linear:
        return None
    taken = {getattr(module, "in_features", None) for module in known.ancestors[1].children()}
    if known.shape[0] % 2 or known.shape[0] // 2 not in taken:
        return None
    return views.gate_up(), "gate and up fused, by name"


def expert_gate_up(known: Known) -> Layout | None:
    """Gate and up projections of a stack of experts, in the two orders of transformers."""
    if known.local not in GATE_UP or known.parameter.ndim != 3:
        return None
    stored = "cols" if _inputs_first(known.owner) else "rows"
    if known.shape[-1 if stored == "cols" else -2] % 2:
        return None
    interleaved = getattr(known.owner, "is_concatenated", True) is False
    note = "gate and up interleaved, by name" if interleaved else "gate and up fused, by name"
    return views.gate_up(interleaved=interleaved, stored=stored), note


def _inputs_first(experts: nn.Module) -> bool:
    """Whether experts are stored `[e, in, out]`; the module says so, or its shapes do."""
    stated = getattr(experts, "is_transposed", None)
    if isinstance(stated, bool):
        return stated
    up, down = getattr(experts, "gate_up_proj", None), getattr(experts, "down_proj", None)
    if not isinstance(up, nn.Parameter) or not isinstance(down, nn.Parameter):
        return False
    return up.ndim == down.ndim == 3 and up.shape[-1] == 2 * down.shape[-2]


def stored_inputs_first(known: Known) -> Layout | None:
    """`Conv1D` of transformers, and experts stored `[e, in, out]`."""
    experts = known.is_bare and known.parameter.ndim == 3
    if known.is_conv1d or (experts and _inputs_first(known.owner)):
        return views.transposed, ""
    return None


def plain(known: Known) -> Layout:
    """One matrix, or a stack over the leading axes."""
    return (views.matrix if known.parameter.ndim == 2 else views.stack), ""


RULES: Final[tuple[Rule, ...]] = (
    convolution,
    gates,
    attention,
    fused_qkv,
    fused_gate_up,
    expert_gate_up,
    stored_inputs_first,
    plain,
)
