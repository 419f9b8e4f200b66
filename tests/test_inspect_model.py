"""`load_model`: the three kinds of targets, and every way in which one can be wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stiefel
from stiefel.errors import StiefelError
from stiefel.inspect_model import load_model
from tests.roles import zoo

pytestmark = pytest.mark.filterwarnings("ignore:matrix recipes step only")


def folder(path: Path, **config: Any) -> str:
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


# -- a folder with a config.json -------------------------------------------------------------------


def test_a_config_is_built_without_weights(tmp_path: Path) -> None:
    expected = zoo.published("phi3")
    expected.config.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    model = load_model(folder(tmp_path, **stated, architectures=["Phi3ForCausalLM"]))
    assert all(p.is_meta for p in model.parameters())
    assert str(stiefel.plan(model, "muon")) == str(stiefel.plan(expected, "muon"))


@pytest.mark.parametrize("architectures", [None, [], ["SomebodysOwnModel"]])
def test_without_a_known_architecture_it_is_the_bare_model(
    tmp_path: Path, architectures: list[str] | None
) -> None:
    zoo.published("llama").config.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    model = load_model(folder(tmp_path, **stated | {"architectures": architectures}))
    assert type(model).__name__ == "LlamaModel"


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "modeling.py").write_text("raise SystemExit('run')")
    auto = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    target = folder(tmp_path, model_type="own", auto_map=auto)
    with pytest.raises(StiefelError, match="cannot build the model of"):
        load_model(target)


def test_a_config_that_transformers_refuses(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(StiefelError, match=r"transformers \S+ cannot build .*config.json"):
        load_model(folder(tmp_path, model_type="nothing-known"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StiefelError, match="cannot build"):
        load_model(str(tmp_path))


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(StiefelError, match="holds no config.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("package", ["transformers", "safetensors"])
def test_a_missing_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "model.safetensors").touch()
    folder(tmp_path)
    target = tmp_path if package == "transformers" else tmp_path / "model.safetensors"
    with pytest.raises(StiefelError, match=rf"needs {package}: pip install 'stiefel\[hf\]'"):
        load_model(str(target))


# -- a .safetensors file ---------------------------------------------------------------------------

TENSORS = {
    "model.embed_tokens.weight": (40, 8),
    "model.pos_embed": (1, 6, 8),
    "model.layers.0.attn.q_proj.weight": (8, 8),
    "model.layers.0.attn.q_proj.bias": (8,),
    "model.layers.0.norm.weight": (8,),
    "model.layers.0.mlp.gate.weight": (4, 8),
    "model.layers.0.mlp.experts.gate_up_proj": (4, 32, 8),
    "model.layers.0.mlp.experts.down_proj": (4, 8, 16),
    "model.layers.0.mixer.conv1d.weight": (16, 1, 4),
    "vision.stem.weight": (16, 3, 4, 4),
    "vision.deep.weight": (16, 16, 3, 3),
    "stacked.weight": (4, 48, 40),
    "lm_head.weight": (40, 8),
    "scale": (),
}
ROLES = {
    "model.embed_tokens.weight": "embedding",
    "model.pos_embed": "positional",
    "model.layers.0.attn.q_proj.weight": "hidden",
    "model.layers.0.attn.q_proj.bias": "vector",
    "model.layers.0.norm.weight": "vector",
    "model.layers.0.mlp.gate.weight": "router",
    "model.layers.0.mlp.experts.gate_up_proj": "expert",
    "model.layers.0.mlp.experts.down_proj": "expert",
    "model.layers.0.mixer.conv1d.weight": "conv_depthwise",
    "vision.stem.weight": "conv_first",
    "vision.deep.weight": "conv",
    "stacked.weight": "expert",
    "lm_head.weight": "head",
    "scale": "scalar",
}


def weights(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(tensors, path / "model.safetensors")
    return str(path / "model.safetensors")


def test_a_file_becomes_a_skeleton(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in TENSORS.items()}
    tensors["model.position_ids"] = torch.arange(6)
    model = load_model(weights(tmp_path, tensors))
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == TENSORS
    assert all(p.is_meta for p in model.parameters())
    plan = stiefel.plan(model, "muon")
    assert {entry.name: str(entry.role) for entry in plan.values()} == ROLES
    assert str(plan["model.layers.0.mlp.experts.gate_up_proj"].view) == (
        "gate_up gate 4x16x8, up 4x16x8"
    )


def test_the_reasons_say_that_only_names_are_known(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in TENSORS.items()}
    plan = stiefel.plan(load_model(weights(tmp_path, tensors)), "muon")
    assert all("by name only" in entry.reason for entry in plan.values())


def test_names_that_torch_itself_uses(tmp_path: Path) -> None:
    model = load_model(weights(tmp_path, {"type.forward.train": torch.zeros(4, 4)}))
    assert [name for name, _ in model.named_parameters()] == ["type.forward.train"]


def test_experts_in_a_list(tmp_path: Path) -> None:
    tensors = {
        f"mlp.experts.{e}.w{i}.weight": torch.zeros(8, 8) for e in range(4) for i in range(2)
    }
    tensors["mlp.gate.weight"] = torch.zeros(4, 8)
    plan = stiefel.plan(load_model(weights(tmp_path, tensors)), "muon")
    assert plan["mlp.gate.weight"].role == "router"


def test_what_is_no_safetensors_file(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    with pytest.raises(StiefelError, match="there is no file"):
        load_model(str(path))
    path.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(StiefelError, match="is not a safetensors file"):
        load_model(str(path))


# -- package.module:factory ------------------------------------------------------------------------

CODE = """
from torch import nn

ready = nn.Linear(2, 3)
class models:
    @staticmethod
    def make(): return nn.Linear(4, 5)
def broken(): raise KeyError("no such size")
def number(): return 7
"""


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "own_models", raising=False)


@pytest.mark.usefixtures("own_models")
def test_a_factory_or_a_module() -> None:
    assert load_model("own_models:models.make").weight.shape == (5, 4)
    assert load_model("own_models:ready").weight.shape == (3, 2)
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("own_models:broken", "failed with KeyError: 'no such size'"),
        ("own_models:number", "gives 'int', not a torch.nn.Module"),
        ("own_models:nothing", "failed with AttributeError"),
        (
            "no_such_module:make",
            "failed with ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("own_models", "is neither a folder with a config.json, nor"),
        ("own_models:", "is neither a folder with a config.json, nor"),
    ],
)
def test_a_factory_that_fails(target: str, words: str) -> None:
    with pytest.raises(StiefelError, match=words):
        load_model(target)
