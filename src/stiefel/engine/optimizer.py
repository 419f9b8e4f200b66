"""One torch.optim.Optimizer for every parameter of a model, whatever the recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stiefel.engine import checkpoint
from stiefel.engine.admission import (
    check_flags,
    check_gradient,
    check_group,
    checked_view,
    complete,
    listed,
    listed_views,
    offer_momentum,
    plain,
    present_numbers,
    read_once,
    tensors_of,
    warn_of_frozen,
)
from stiefel.engine.bucket import (
    Bucket,
    Job,
    initial_state,
    make_buckets,
    members_of,
    with_phases,
)
from stiefel.engine.distributed.rounds import Step
from stiefel.engine.distributed.shards import Shards, step_shards
from stiefel.engine.distributed.sharing import Sharing
from stiefel.engine.effective import EffectiveStep, effective_steps
from stiefel.engine.evaluation import evaluating
from stiefel.engine.execution import Compiled, eager
from stiefel.engine.faults import faults
from stiefel.engine.guard import inspect, permitted
from stiefel.engine.settling import follow, fresh_state, settle
from stiefel.engine.transport import ProcessGroup, lies
from stiefel.errors import ParameterError
from stiefel.piece import Live
from stiefel.recipe import LR, Recipe
from stiefel.views import View

__all__ = ["Optimizer"]

Group: TypeAlias = dict[str, Any]
Bucketed: TypeAlias = list[tuple[Group, Recipe, list[Bucket]]]


class Optimizer(torch.optim.Optimizer):
    """Steps each param group by its recipe.

    `stiefel.optimizer` builds one for a model, `stiefel.Muon` and its like for parameters that you
    chose yourself.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or param groups. A group may hold
            ``"recipe"`` (a `Recipe`; otherwise ``recipe`` below) and ``"views"`` (one view, view
            rule or None for each parameter).
        recipe: the recipe of groups that name none.
        lr: learning rate of recipes without their own; a number or a one-element tensor.
        maximize: ascend instead of descend.
        guard: skip a step whose gradients hold a NaN or an Inf: weights and all state stay, and
            `skipped_steps` counts. Gradients whose squares would overflow (a total norm beyond
            1.2e18 in float32) are scaled down together. Costs one norm over the gradients and one
            device sync a step.
        compile: run every bucket through torch.compile.
        process_group: the ranks that hold the same plain parameters, as under
            DistributedDataParallel: each steps its share of the matrices and keeps their state.
            DTensors need no word: their mesh says who holds what.
        wire: dtype on the way between ranks, for example torch.bfloat16, where it is narrower than
            that of gradients and updates; None sends them as they are.
        stagger: spread the refreshes of a preconditioner over its period, so that all steps take
            about the same time; otherwise all matrices are refreshed in the same step, as in the
            published codes.

    Every hyper-parameter lives in ``param_groups`` under its own name and is read at each step.
    State is created at once, in float32 for 16-bit parameters.

    Raises:
        ParameterError: empty list, complex, integer or sharded tensors, a tensor that is no matrix
            under a matrix recipe.
        HyperparameterError: a number out of its range.
        ViewError: a view that does not fit its tensor.
    """

    def __init__(
        self,
        params: ParamsT,
        recipe: Recipe,
        *,
        lr: float | Tensor = 1e-3,
        maximize: bool = False,
        guard: bool = True,
        compile: bool = False,
        stagger: bool = True,
        process_group: ProcessGroup | None = None,
        wire: torch.dtype | None = None,
    ) -> None:
        check_flags(maximize=maximize, guard=guard, compile=compile, stagger=stagger)
        self._recipe = recipe
        self._recipes: dict[str, Recipe] = {}
        self._views: dict[Tensor, View | None] = {}
        self._buckets: Bucketed = []
        self._seen: list[Any] = []
        self._guard = guard
        self._compile = compile
        self._stagger = stagger
        self._run = Compiled() if compile else eager
        self._sharing = Sharing(process_group, wire)
        self._shards = Shards()
        numbers = {name: live.default for name, live in recipe.live.items()}
        groups = listed(params)
        self._sharing.know(tensors_of(groups))
        with self._sharing.compared(self._describe):
            LR.check(lr)
            super().__init__(groups, {"lr": lr, **numbers, "maximize": maximize})

    # -- groups ------------------------------------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, before or after steps; see the class for what a group may hold."""
        group = read_once(dict(param_group))
        self._sharing.know(tensors_of([group]))
        before = len(self.param_groups)
        try:
            with self._sharing.compared(self._describe):
                self._add(group)
        except Exception:
            for refused in self.param_groups[before:]:
                self._sharing.dismiss(refused["params"])
            del self.param_groups[before:]
            raise
        offer_momentum(self.defaults, (self._recipes[g["recipe"]] for g in self.param_groups))

    def _add(self, group: Group) -> None:
        """Complete a new group, and let torch check and keep it."""
        check_group(len(self.param_groups), group)
        recipe, views = group.pop("recipe", self._recipe), group.pop("views", None)
        complete(group, recipe, self.defaults["lr"], self.skipped_steps)
        keys = set(group)
        super().add_param_group(group)
        for key in self.defaults.keys() - keys - {"maximize"}:
            del group[key]  # torch fills in every default; a group keeps what its recipe reads
        self._register(group, recipe, views)

    def _register(self, group: Group, recipe: Recipe, views: Any) -> None:
        """Check every parameter of a new group, then create all state."""
        params = group["params"]
        names = group.get("param_names") or [f"of shape {tuple(p.shape)}" for p in params]
        chosen = {
            p: checked_view(name, p, view, recipe)
            for name, p, view in zip(names, params, listed_views(views, len(params)), strict=True)
        }
        warn_of_frozen(params)
        self._views.update(chosen)
        self._recipes[group["recipe"]] = recipe
        self._sharing.admit(dict(zip(params, names, strict=True)), self._views, recipe)
        for parameter in params:
            self.state[parameter] = fresh_state(self, parameter, recipe)

    def _describe(self, parameter: Tensor) -> str:
        """What must be the same on every rank that holds the parameter."""
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        numbers = {key: plain(group[key]) for key in self.keys_of(group)}
        options = f"guard={self._guard}, stagger={self._stagger}, wire={self._sharing.wire}"
        return ", ".join(
            map(str, (lies(parameter), self._views[parameter], group["recipe"], numbers, options))
        )

    def _bucketed(self) -> Bucketed:
        """The buckets of every group, made anew when groups or parameters were changed."""
        if self._seen != self._signature():
            follow(self)
            recipes = [self._recipes[group["recipe"]] for group in self.param_groups]
            self._buckets = [
                (group, recipe, self._buckets_of(index, group, recipe))
                for index, (group, recipe) in enumerate(
                    zip(self.param_groups, recipes, strict=True)
                )
            ]
            self._seen = self._signature()
            self._sharing.forget()
        return self._buckets

    def _signature(self) -> list[Any]:
        """What buckets depend on. The ids stay unique, for the buckets hold what they name."""
        return [
            (id(group), [(id(p), p.dtype, p.device, len(self.state[p])) for p in group["params"]])
            for group in self.param_groups
        ]

    def _buckets_of(self, index: int, group: Group, recipe: Recipe) -> list[Bucket]:
        params = dict.fromkeys(group["params"])  # one given twice (torch warns) is stepped once
        for parameter in params:
            settle(self, parameter, recipe)
        members = [m for p in params for m in members_of(self._stepped(p), self._views[p], recipe)]
        members = with_phases(members, recipe, self._stagger)
        return make_buckets(recipe, self._sharing.without_shares(index, members))

    def _stepped(self, parameter: Tensor) -> Tensor:
        """What a bucket steps: the parameter, or this rank's shard of it."""
        return parameter if parameter in self._sharing.shares else self._shards.of(parameter)

    def keys_of(self, group: Group) -> list[str]:
        """What a group must hold for a step."""
        return ["lr", "maximize", "skipped_steps", *self._recipes[group["recipe"]].live]

    def rules_of(self, group: Group) -> list[Live]:
        """The numbers of a group, with what they may be."""
        return [LR, *self._recipes[group["recipe"]].live.values()]

    def blank_state(self, parameter: Tensor, group: Group) -> dict[str, Tensor]:
        """Names, shapes and dtypes of a parameter's whole state, as tensors without memory."""
        recipe = self._recipes[group["recipe"]]
        return initial_state(parameter, self._views[parameter], recipe, "meta")

    def name_of(self, parameter: Tensor) -> str:
        """The parameter's name, or its place in ``param_groups`` when it was given without one."""
        for index, group in enumerate(self.param_groups):
            for place, p in enumerate(group["params"]):
                if p is parameter:
                    names = group.get("param_names")
                    return str(names[place]) if names else f"param_groups[{index}][{place}]"
        raise ParameterError(f"no parameter of shape {tuple(parameter.shape)} in this optimiser")

    # -- stepping ----------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step. Gradients are read, never written. Ranks that share parameters step together.

        Raises:
            GradientError: a sparse or complex gradient, before anything changed.
            DistributedError: what another rank raised.
        """
        loss, error = None, None
        bucketed: Bucketed = []
        ready: dict[Tensor, Tensor] = {}
        numbers: list[dict[str, Any]] = []
        try:
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            bucketed, ready = self._bucketed(), dict(self._ready())
            numbers = [present_numbers(group, recipe) for group, recipe, _ in bucketed]
        except Exception as raised:
            error = raised  # raised again as soon as the other ranks know
        answer = self._sharing.ask(ready, self._guard, error)
        grads = self._sharing.gradients(ready, answer)
        if factor := self._may_step(grads, answer.norm):
            signs = [-factor if group["maximize"] else factor for group, _, _ in bucketed]
            jobs = [Job(*of_group, self._run) for of_group in zip(numbers, signs, strict=True)]
            self._advance([buckets for _, _, buckets in bucketed], jobs, grads)
        return loss

    def _ready(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters that have a gradient, with it."""
        for group in self.param_groups:
            for parameter in dict.fromkeys(group["params"]):
                if parameter.grad is not None:
                    check_gradient(self.name_of, parameter, parameter.grad)
                    yield parameter, parameter.grad

    def _may_step(self, grads: Mapping[Tensor, Tensor], norm: float) -> float:
        """What to multiply the gradients by; 0 for no step at all."""
        if not self._guard:
            return 1.0
        entries = sum(parameter.numel() for parameter in grads)
        judged = inspect(list(grads.values()), norm, entries, self._sharing.largest)
        return permitted(self.param_groups, *judged)

    def _advance(
        self, buckets: list[list[Bucket]], jobs: list[Job], grads: Mapping[Tensor, Tensor]
    ) -> None:
        now = Step(grads, {p: int(self.state[p]["step"]) + 1 for p in grads}, jobs)
        error = step_shards(self._shards, self.state, buckets, self._sharing.alone(now))
        self._sharing.tell(self._sharing.step(now) or error)
        if grads:  # other ranks may have some where this one has none
            torch._foreach_add_([self.state[p]["step"] for p in grads], 1)

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped because a gradient held a NaN or an Inf (kept on resume)."""
        return int(self.param_groups[0]["skipped_steps"]) if self.param_groups else 0

    def faults(self) -> dict[str, int]:
        """How often a decomposition failed and the last good factor was kept, by parameter.

        Only parameters with a fault are listed; the counts are part of the state and survive a
        resume. Ranks that share parameters must all ask.
        """
        return faults(self)

    def effective_lr(self) -> dict[str, EffectiveStep]:
        """What a step with the present gradients and state would really do to each parameter.

        The step is made on a copy, so nothing changes; call it before `step`, on occasion (it costs
        a step, a copy of the model and a spectral norm a matrix). Parameters without a gradient are
        left out.
        """
        return effective_steps(self)

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate at the weights that the method is about, where it trains at others.

        ``with opt.evaluating():`` puts averaged, slow or schedule-free weights into the parameters
        and the trained ones back afterwards, bit for bit. Other recipes change nothing. Take no
        `step` inside, and no backward pass of a forward one outside. Buffers, such as BatchNorm's
        statistics, stay those of the training. Ranks that share parameters must all enter it.
        """
        return evaluating(self)

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State and groups. Ranks that share parameters must all call it.

        The state of shared matrices comes as DTensors with the names and shapes of one process, cut
        over all ranks: save them with torch.distributed.checkpoint, or take them whole through
        torch's ``get_optimizer_state_dict(..., full_state_dict=True)``.

        Raises:
            DistributedError: other ranks did not call it.
        """
        self._bucketed()  # state for what was put into the groups since the last step
        return checkpoint.dump(self, super().state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned, bit for bit, in whatever dtype the parameters are.

        Raises:
            CheckpointError: another model, recipe or view; before anything changed.
        """
        self._bucketed()
        checkpoint.load(self, state_dict, super().load_state_dict)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_recipe", "_recipes", "_views", "_guard", "_compile", "_stagger", "_sharing")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._buckets, self._seen, self._shards = [], [], Shards()
        if "_run" not in self.__dict__:
            self._run = Compiled() if self._compile else eager
