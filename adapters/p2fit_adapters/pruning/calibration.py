"""What goes into the matrices of a block, on calibration text, block after block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import decoder_layers

_ROUTER = re.compile(r"(^|\.)(router|gate|shared_expert_gate)(\.|$)")
_TRANSPOSED = ("Conv1D", "Llama4TextExperts")  # classes that do not say so


@dataclass(frozen=True)
class Matrix:
    """A weight that inputs are multiplied with, or one for each expert."""

    parameter: nn.Parameter
    """[outputs, inputs] or [experts, outputs, inputs]."""
    transposed: bool
    """Its last two axes are the other way round."""

    @property
    def rows(self) -> torch.Tensor:
        """[experts, outputs, inputs], a view; 1 expert where there are none."""
        whole = self.parameter.data
        whole = whole if whole.ndim == 3 else whole[None]
        return whole.mT if self.transposed else whole

    @property
    def inputs(self) -> int:
        return self.rows.shape[-1]

    def as_stored(self, rows: torch.Tensor) -> torch.Tensor:
        """What has the shape of :attr:`rows`, laid out as the parameter."""
        laid_out = rows.mT if self.transposed else rows
        return laid_out.reshape(self.parameter.shape).contiguous()

    def place(self, weight: torch.Tensor) -> int | None:
        """Which expert's matrix this is, a view of the parameter; None if it is none."""
        begin, size = self.parameter.data_ptr(), self.parameter.element_size()
        at = (weight.data_ptr() - begin) // size
        inside = 0 <= at < self.parameter.numel() and weight.device == self.parameter.device
        return at // self.rows[0].numel() if inside else None


def matrices(block: nn.Module) -> dict[str, Matrix]:
    """The weights of linear layers, Conv1D and experts in a block, by name, without routers."""
    found = {}
    for path, module in block.named_modules():
        kind = type(module).__name__
        experts = "Experts" in kind
        if not (isinstance(module, nn.Linear) or kind == "Conv1D" or experts):
            continue
        transposed = getattr(module, "is_transposed", False) or kind in _TRANSPOSED
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == (3 if experts else 2) and not _ROUTER.search(path):
                found[f"{path}.{name}"] = Matrix(parameter, transposed)
    return found


#: Second moments of inputs: by name of the matrix and place of the expert.
Moments = dict[tuple[str, int], torch.Tensor]


class _Products(TorchFunctionMode):  # type: ignore[misc]
    """Sees every product with one of these matrices, and sums up moments of what goes in.

    Not every family calls the layers that hold its weights: Mamba and experts take them out.
    """

    def __init__(self, wanted: Mapping[str, Matrix], whole: bool) -> None:
        super().__init__()
        self.wanted, self.whole = wanted, whole
        self.moments: Moments = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        product = _PRODUCTS.get(func)
        if product is not None:
            self._see(*product(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def _see(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """left @ right, one of them perhaps a matrix of the block."""
        if min(left.ndim, right.ndim) < 2:
            return
        for name, matrix in self.wanted.items():
            for inputs, weight in ((left, right), (right.mT, left.mT)):
                place = matrix.place(weight)
                if place is None:
                    continue
                # As stored, weights have their last axis contiguous; here they come as [in, out].
                if (weight.stride(-1) == 1) != matrix.transposed and min(weight.shape) > 1:
                    raise RunError(f"{name}: is laid out in a way that N:M pruning does not know")
                if weight.ndim == 3:
                    for i, part in enumerate(inputs):
                        self._add((name, i), part)
                else:
                    self._add((name, place), inputs)

    def _add(self, key: tuple[str, int], x: torch.Tensor) -> None:
        x = x.detach().flatten(0, -2).float()
        with torch.autocast(x.device.type, enabled=False):
            moment = x.T @ x if self.whole else (x * x).sum(0)
        self.moments[key] = self.moments[key] + moment if key in self.moments else moment


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> Any:
    return input, weight.mT


def _addmm(_: torch.Tensor, left: torch.Tensor, right: torch.Tensor, **__: Any) -> Any:
    return left, right


def _matmul(left: torch.Tensor, right: torch.Tensor) -> Any:
    return left, right


_PRODUCTS: dict[Any, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    linear: _linear,
    torch.addmm: _addmm,
    **dict.fromkeys(
        (torch.matmul, torch.bmm, torch.mm, torch.Tensor.matmul, torch.Tensor.__matmul__), _matmul
    ),
}


class _StopForward(Exception):  # noqa: N818
    """What comes after this block is not needed."""


@dataclass
class _Call:
    """How the model calls a block, without the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, block: nn.Module, states: torch.Tensor) -> torch.Tensor:
        if self.args:
            out = block(states, *self.args[1:], **self.kwargs)
        else:
            first, *rest = self.kwargs
            out = block(**{first: states}, **{name: self.kwargs[name] for name in rest})
        return out[0] if isinstance(out, tuple) else out

    @property
    def states(self) -> torch.Tensor:
        found: torch.Tensor = (*self.args, *self.kwargs.values())[0]
        return found

    def forget_states(self) -> None:
        """Those before the first block are kept elsewhere, the others not needed."""
        if self.args:
            self.args = (None, *self.args[1:])
        else:
            self.kwargs = {**self.kwargs, next(iter(self.kwargs)): None}

    @property
    def others(self) -> list[torch.Tensor]:
        """Tensors besides the hidden states."""
        values = [*self.args, *self.kwargs.values()][1:]
        flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
        return [value for value in flat if isinstance(value, torch.Tensor)]


class Calibration:
    """Runs the blocks of a model on windows, each on the outputs of those before it as they are.

    Each block is called as the model calls it, once before and once after it changes. Where what
    it is called with besides hidden states follows from them, the model runs anew to each block.
    """

    def __init__(self, model: Any, windows: torch.Tensor, batch_size: int) -> None:
        self.model, self.batches = model, list(windows.split(batch_size)) if len(windows) else []
        self.blocks = list(decoder_layers(model)[1])

    def __enter__(self) -> Calibration:
        self._caches = getattr(self.model.config, "use_cache", None)
        self.model.config.use_cache = False  # a block that is called twice would see itself
        self._experts = getattr(self.model.config, "_experts_implementation", None)
        if self._experts not in (None, "eager"):  # one product for each expert, to be seen
            self.model.set_experts_implementation("eager")
        self.calls = [self._calls(batch) for batch in self.batches]
        self.states = [calls[0].states for calls in self.calls]
        if self.batches:
            others = self._calls(self.batches[0], disturbed=True)
            same = all(
                torch.equal(a, b)
                for one, other in zip(self.calls[0], others, strict=True)
                for a, b in zip(one.others, other.others, strict=True)
            )
            if not same:
                self.calls = []
        return self

    def __exit__(self, *_: Any) -> None:
        self.model.config.use_cache = self._caches
        if self._experts not in (None, "eager"):
            self.model.set_experts_implementation(self._experts)

    def moments(self, i: int, wanted: Mapping[str, Matrix], whole: bool) -> Moments:
        """Per matrix Σ x xᵀ over the tokens that reach it, or only its diagonal.

        Raises:
            RunError: nothing was seen to reach one of them.
        """
        with _Products(wanted, whole) as products:
            if self.calls:
                for calls, states in zip(self.calls, self.states, strict=True):
                    calls[i](self.blocks[i], states)
            else:
                for batch in self.batches:
                    self._run_to(i, batch)
        seen = {name for name, _ in products.moments}
        for name in wanted if self.batches else ():
            if name not in seen:
                raise RunError(f"{name}: its inputs are not seen: use --criterion magnitude")
        return products.moments

    def advance(self, i: int) -> None:
        """Block i has changed, and will not change any more."""
        torch.clear_autocast_cache()  # which holds its weights as they were
        if self.calls:
            pairs = zip(self.calls, self.states, strict=True)
            self.states = [calls[i](self.blocks[i], states) for calls, states in pairs]

    def _calls(self, batch: torch.Tensor, disturbed: bool = False) -> list[_Call]:
        """How the model calls each block on this batch."""
        found: list[_Call] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(_Call(args, kwargs))
            if len(found) == len(self.blocks):
                raise _StopForward

        def disturb(_: nn.Module, __: Any, out: Any) -> Any:
            return (-out[0], *out[1:]) if isinstance(out, tuple) else -out

        hooks = [b.register_forward_pre_hook(note, with_kwargs=True) for b in self.blocks]
        if disturbed:
            hooks += [block.register_forward_hook(disturb) for block in self.blocks]
        with _hooked(hooks):
            self.model(batch.to(self.model.device))
        for call in found[1:]:
            call.forget_states()
        return found

    def _run_to(self, i: int, batch: torch.Tensor) -> None:
        def stop(*_: Any) -> None:
            raise _StopForward

        with _hooked([self.blocks[i].register_forward_hook(stop)]):
            self.model(batch.to(self.model.device))


@contextmanager
def _hooked(hooks: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    except _StopForward:
        pass
    finally:
        for hook in hooks:
            hook.remove()
