"""Tiny models with the structure of published ones, without weights, and a few of torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

SIZES = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
MHA = {**SIZES, "num_attention_heads": 4}
GQA = {**MHA, "num_key_value_heads": 2}
NO_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# Name of the model in transformers, and of its config with the sizes that differ from the default.
PUBLISHED = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 100, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "llama": ("LlamaForCausalLM", GQA),
    "llama-tied": ("LlamaForCausalLM", {**GQA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**GQA, "head_dim": 16}),
    "mixtral": ("MixtralForCausalLM", {**GQA, "num_local_experts": 4}),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        {
            **GQA,
            "head_dim": 16,
            "num_experts": 6,
            "moe_intermediate_size": 24,
            "num_experts_per_tok": 2,
        },
    ),
    "gpt-oss": (
        "GptOssForCausalLM",
        {**GQA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "bert": ("BertForMaskedLM", {**MHA, "max_position_embeddings": 64}),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    ),
    "vit": (
        "ViTForImageClassification",
        {**MHA, "image_size": 32, "patch_size": 8, "num_labels": 10},
    ),
    "phi3": ("Phi3ForCausalLM", GQA),
    "gpt-neox": ("GPTNeoXForCausalLM", MHA),
    "falcon": (
        "FalconForCausalLM",
        {
            "vocab_size": 100,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
        },
    ),
    "mamba": ("MambaForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2}),
}


def published(name: str, device: str = "meta", **changes: object) -> nn.Module:
    """A model of transformers, by default without weights."""
    transformers = pytest.importorskip("transformers")
    architecture, sizes = PUBLISHED[name]
    make = getattr(transformers, architecture)
    tokens = {} if name == "vit" else NO_TOKENS
    with torch.device(device):
        model: nn.Module = make(make.config_class(**{**tokens, **sizes, **changes})).eval()
    return model


class Residual(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.short(x)).relu()


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Residual(8, 8, 1), Residual(8, 8, 1))
        self.layer2 = nn.Sequential(Residual(8, 16, 2))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return self.fc(x.mean((2, 3)))


class Separable(nn.Module):
    """Depthwise, pointwise, grouped and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2)
        self.scale = nn.Parameter(torch.ones(12, 1, 1))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.pointwise(self.depthwise(self.stem(x))))
        return self.head((self.up(x) * self.scale).mean((2, 3)))


def torch_transformer() -> nn.Module:
    return nn.Transformer(32, 4, 2, 2, 48)


def lstm() -> nn.Module:
    return nn.LSTM(12, 20, num_layers=2, proj_size=8)


OWN = {"transformer": torch_transformer, "lstm": lstm, "resnet": ResNet, "separable": Separable}
