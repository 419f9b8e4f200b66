"""load_state_dict: nothing goes in that does not belong, and nothing is rounded on the way.

torch's own `load_state_dict` casts every floating state tensor to the parameter's dtype, which
rounds the float32 momentum of a bf16 parameter. Here every tensor keeps the dtype it was saved in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stiefel.engine.distributed.state import exported, load_share
from stiefel.engine.transport import like, part_of
from stiefel.errors import CheckpointError, HyperparameterError
from stiefel.piece import Live, as_python

if TYPE_CHECKING:
    from stiefel.engine.distributed.sharing import Sharing
    from stiefel.engine.optimizer import Optimizer

__all__ = ["dump", "load"]

StateDict = dict[str, Any]
Checked = tuple[Mapping[str, Any], Mapping[str, Tensor]]  # what was saved, what it must look like


def dump(optimizer: Optimizer, torch_dump: Callable[[], StateDict]) -> StateDict:
    """What torch saves, in Python's numbers, and the state of shared matrices, from their owners.

    It goes in as the first post-hook, so that the user's own hooks see the dict complete.
    """
    for group in optimizer.param_groups:  # schedules may have put NumPy's in
        for name in group.keys() - {"params"}:
            group[name] = as_python(group[name])
    shares = optimizer._sharing.shares
    if not shares:
        return torch_dump()
    with _agreed(optimizer._sharing, "state_dict()") as agree:

        def fill(_: Any, made: StateDict) -> None:
            agree()
            for group, saved in zip(optimizer.param_groups, made["param_groups"], strict=True):
                for parameter, key in zip(group["params"], saved["params"], strict=True):
                    if share := shares.get(parameter):
                        blank = optimizer.blank_state(parameter, group)
                        del blank["step"]  # every rank counts
                        made["state"][key] = {**made["state"][key], **exported(share, blank)}

        handle = optimizer.register_state_dict_post_hook(fill, prepend=True)
        try:
            return torch_dump()
        finally:
            handle.remove()


def load(
    optimizer: Optimizer, state_dict: StateDict, torch_load: Callable[[StateDict], None]
) -> None:
    """Check ``state_dict`` whole, then let torch load the groups and put the state in unrounded.

    The check runs as the last pre-hook, so that it sees what the user's own hooks made of the
    dict, and the state goes in as the first post-hook, so that they see it complete.
    """
    checked: dict[Tensor, Checked] = {}
    with _agreed(optimizer._sharing, "load_state_dict()") as agree:

        def check(_: Any, given: StateDict) -> StateDict:
            checked.update(_checked_state(optimizer, given))
            agree()
            return {**given, "state": {}, "param_groups": _with_our_names(optimizer, given)}

        def fill(_: Any) -> None:
            for parameter, entry in checked.items():
                optimizer.state[parameter] = _placed(optimizer, parameter, *entry)

        handles = [
            optimizer.register_load_state_dict_pre_hook(check),
            optimizer.register_load_state_dict_post_hook(fill, prepend=True),
        ]
        try:
            torch_load(state_dict)
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _agreed(sharing: Sharing, call: str) -> Iterator[Callable[[], None]]:
    """Ranks go on together from where they call what this gives: an error before is for all."""
    met = False

    def agree(error: Exception | None = None) -> None:
        nonlocal met
        met = True
        sharing.agree(call, error)

    try:
        yield agree
    except Exception as error:
        if not met:
            agree(error)
        raise


def _with_our_names(optimizer: Optimizer, given: StateDict) -> list[dict[str, Any]]:
    """The saved groups. Parameters keep the names of this model, which may be wrapped otherwise."""
    renamed = [dict(saved) for saved in given["param_groups"]]
    for group, saved in zip(optimizer.param_groups, renamed, strict=True):
        saved.pop("param_names", None)
        if "param_names" in group:
            saved["param_names"] = group["param_names"]
    return renamed


def _checked_state(optimizer: Optimizer, given: StateDict) -> dict[Tensor, Checked]:
    """Every parameter's state in ``given``, or a `CheckpointError`."""
    found = given.keys() if isinstance(given, Mapping) else ()
    if not {"state", "param_groups"} <= set(found):
        raise CheckpointError(
            f"a state dict has 'state' and 'param_groups', this one {sorted(found) or 'nothing'}: "
            "give what opt.state_dict() returned"
        )
    groups, saved_groups = optimizer.param_groups, given["param_groups"]
    if len(groups) != len(saved_groups):
        raise CheckpointError(
            f"the checkpoint has {len(saved_groups)} param groups ({_methods(saved_groups)}), this "
            f"optimiser {len(groups)} ({_methods(groups)}): build it with the model, the recipe "
            "and the groups that were saved"
        )
    state: dict[Tensor, Checked] = {}
    for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        _check_group(index, group, saved, optimizer.keys_of(group))
        _check_numbers(index, saved, optimizer.rules_of(group))
        for parameter, key in zip(group["params"], saved["params"], strict=True):
            name, blank = optimizer.name_of(parameter), optimizer.blank_state(parameter, group)
            entry = given["state"].get(key, {})
            _check_entry(name, blank, entry)
            state[parameter] = entry, blank
    return state


def _methods(groups: list[dict[str, Any]]) -> str:
    """The names of the groups' recipes: ``averaged(muon), adamw``."""
    # A fingerprint goes on with the recipe's fields, of which `apply` is the first.
    return ", ".join(str(g.get("recipe", "no recipe")).partition("(apply=")[0] for g in groups)


def _check_group(
    index: int, group: Mapping[str, Any], saved: Mapping[str, Any], needed: list[str]
) -> None:
    if "recipe" not in saved:
        raise CheckpointError(
            f"param group {index} of the checkpoint names no recipe: it was not saved by stiefel; "
            "start with fresh optimiser state"
        )
    if saved["recipe"] != group["recipe"]:
        raise CheckpointError(
            f"param group {index} of the checkpoint was saved under {saved['recipe']}, this "
            f"optimiser has {group['recipe']}: build it with the recipe that was saved"
        )
    missing = [key for key in ("params", *needed) if key not in saved]
    if missing:
        raise CheckpointError(
            f"param group {index} of the checkpoint lacks {', '.join(missing)}: it was saved by "
            "another version; add what is missing to its param_groups"
        )
    if len(saved["params"]) != len(group["params"]):
        raise CheckpointError(
            f"param group {index} of the checkpoint has {len(saved['params'])} parameters, this "
            f"optimiser's has {len(group['params'])}: it belongs to another model"
        )
    ours, theirs = group.get("param_names", []), saved.get("param_names", [])
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise CheckpointError(
            f"param group {index} of the checkpoint holds the same parameters in another order: "
            "build the model and the optimiser in the order that was saved"
        )


def _check_numbers(index: int, saved: Mapping[str, Any], rules: Iterable[Live]) -> None:
    for live in rules:
        try:
            live.check(saved[live.name])
        except HyperparameterError as error:
            raise CheckpointError(f"param group {index} of the checkpoint: {error}") from error


def _check_entry(name: str, blank: Mapping[str, Tensor], entry: Mapping[str, Any]) -> None:
    if blank.keys() != entry.keys():
        raise CheckpointError(
            f"state of parameter {name}: the checkpoint has {sorted(entry) or 'nothing'}, this "
            f"optimiser needs {sorted(blank)}; it belongs to another model, recipe or view"
        )
    for key, value in blank.items():
        saved = torch.as_tensor(entry[key])
        if saved.shape != value.shape:
            raise CheckpointError(
                f"state {key} of parameter {name} has shape {tuple(saved.shape)} in the checkpoint "
                f"and {tuple(value.shape)} here: it belongs to another model or view"
            )
    if (steps := float(entry["step"])) < 0:
        raise CheckpointError(f"state step of parameter {name} is {steps}: the file is damaged")


def _placed(
    optimizer: Optimizer, parameter: Tensor, entry: Mapping[str, Any], blank: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """This rank's part of a saved state, as copies: a loaded dict must not be stepped."""
    count = torch.as_tensor(entry["step"]).detach().to("cpu", blank["step"].dtype, copy=True)
    names = [name for name in blank if name != "step"]
    if share := optimizer._sharing.shares.get(parameter):
        load_share(share, {name: entry[name] for name in names})
        return {"step": count}
    own = {name: part_of(parameter, torch.as_tensor(entry[name])) for name in names}
    return {"step": count} | {
        name: like(parameter, part.to(parameter.device, blank[name].dtype, copy=True).contiguous())
        for name, part in own.items()
    }
