"""Training in several processes, with the losses, draws and batch statistics of one.

Every process runs the recipe's own step on the *whole* batch: the same rows, the same draws, the same losses. Only what
costs is divided: each call of a network (a module of the recipe, from outside) computes this process's part of the
batch, and gives the outputs of all parts. So a loss over pairs, triplets or the spread of a batch needs no word here,
the global batch is the published one, and the number of processes moves nothing but the order of float sums.

For derivatives, a tensor is known to all (R), held in parts (S), or a sum over processes (P). Four maps, two pairs of
transposes, each with the other as its gradient, so they can be differentiated any number of times (R1 needs two):
``_Split`` R → S and ``_Join`` S → R, ``_Share`` R → R as used by parts, and ``_Sum`` P → R. Parameters are shared,
which sums their gradients in one message per call; the gradient of anything outside a network is whole already.

Inside a network, batch norm takes its moments over the whole batch, and dropout takes its rows of the whole batch's
mask. A function that looks across samples is marked ``across_batch``. What else would draw random numbers is refused.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from zoo.crew import Crew, here
from zoo.errors import UsageError, ZooError

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it ends with an error."""
MASKED = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
DRAWING = {
    *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "normal", "bernoulli"),
    *("multinomial", "poisson", "uniform_", "normal_", "bernoulli_", "random_", "exponential_", "rrelu"),
    *("gumbel_softmax", "alpha_dropout", "feature_alpha_dropout"),
}


@contextlib.contextmanager
def joined(device: str) -> Iterator[Crew]:
    """Meet the other processes of this job, if there are others: by nccl on cuda, by gloo on the cpu.

    Raises:
        ZooError: One of the others is gone, or says nothing for a long time.
    """
    crew = here()
    if crew.size == 1 or dist.is_initialized():
        yield crew
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield crew
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        raise ZooError(
            f"process {crew.rank} of {crew.size} has lost another one, without which it cannot train on; what was "
            "saved is kept, and if the group does not start again by itself, run the same command again."
        ) from error
    finally:
        dist.destroy_process_group()


def crew() -> Crew:
    """The processes that have met; a crew of one where none have."""
    return Crew(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Crew()


def bytes_of_first(data: bytes) -> bytes:
    """What the first process passes, in all of them."""
    if crew().size == 1:
        return data
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    size = torch.tensor(len(data), device=device)
    dist.broadcast(size, 0)
    held = bytearray(data if crew().first else int(size))
    if not held:
        return b""
    message = torch.frombuffer(held, dtype=torch.uint8).to(device)
    dist.broadcast(message, 0)
    return message.cpu().numpy().tobytes()


def value_of_first(value: Any) -> Any:
    """The same for plain data."""
    return value if crew().size == 1 else json.loads(bytes_of_first(json.dumps(value).encode()))


def any_of(value: bool) -> bool:
    """Whether it is so in any process."""
    if crew().size == 1:
        return value
    counted = torch.tensor(float(value), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(counted)
    return bool(counted)


@contextlib.contextmanager
def divided(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While in this block, calls of these modules and of what is in them are divided among the processes."""
    everything = {id(inner): inner for module in modules for inner in module.modules()} if crew().size > 1 else {}
    for module in everything.values():
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout:
            raise _draws(type(module).__name__, "its own dropout")
    for module in everything.values():
        module.forward = functools.partial(_call, module, module.forward)
    try:
        yield
    finally:
        for module in everything.values():
            del module.__dict__["forward"]


def across_batch(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Mark a function whose rows depend on one another: inside a divided network it is given the whole batch.

    Its first argument and its result have a row per sample; it has no parameters and draws nothing.
    """

    @functools.wraps(function)
    def called(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if _Inside.part is None:
            return function(x, *args, **kwargs)
        part = _Inside.part.stretched(x)
        return _split(function(_join(x, part), *args, **kwargs), part)

    return called


def moments(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance and count per channel of the whole batch, by float64 sums if it is divided.

    Shape:
        x: (n, channels, …), of a divided network this process's rows; returns: (channels,), (channels,), a number.
    """
    over = [dim for dim in range(x.ndim) if dim != 1]
    count = x.numel() // x.shape[1]
    if _Inside.part is None:
        return x.mean(dim=over), x.var(dim=over, correction=0), count
    part = _Inside.part.stretched(x)
    count = count // (part.stop - part.start) * part.n
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean = _total(x.sum(dim=over, dtype=torch.float64)) / count
    apart = x - mean.to(x.dtype).view(shape)
    variance = _total(apart.square().sum(dim=over, dtype=torch.float64)) / count
    return mean.to(x.dtype), variance.to(x.dtype), count


# ---- a network's call


@dataclass(frozen=True)
class _Part:
    """Rows ``start`` to ``stop`` of ``n``, which are this process's."""

    n: int
    start: int
    stop: int

    @classmethod
    def mine(cls, n: int) -> _Part:
        rank, size = dist.get_rank(), dist.get_world_size()
        return cls(n, n * rank // size, n * (rank + 1) // size)

    def stretched(self, x: Tensor) -> _Part:
        """The same samples where each has several rows of ``x``, one after the other."""
        times, rest = divmod(len(x), self.stop - self.start)
        if rest or not times:
            raise UsageError(
                f"inside a network divided among processes, the first axis must be that of the samples, "
                f"{self.stop - self.start} here, but a tensor of shape {tuple(x.shape)} came; train in one process."
            )
        return _Part(times * self.n, times * self.start, times * self.stop)


class _Inside:
    """Whether, and with which rows, a divided network is being computed."""

    part: _Part | None = None


def _call(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``forward`` of this process's rows, joined with those of the others; as it is inside such a call.

    The batch is the first axis of the first tensor; other tensors with as many rows are divided with it. A batch with
    fewer samples than processes is computed whole by all.
    """
    leaves, form = tree_flatten((args, kwargs))
    n = next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim), 0)
    if _Inside.part is not None or n < dist.get_world_size():
        return forward(*args, **kwargs)
    part = _Part.mine(n)
    given, called = tree_unflatten([_given(leaf, part) for leaf in leaves], form)
    held = {name: value for name, value in module.named_parameters() if value.requires_grad}
    shared = dict(zip(held, _Share.apply(*held.values()), strict=True)) if held else {}
    _Inside.part = part
    try:
        with _Rules(type(module).__name__):
            made = functional_call(module, shared, given, called)
    finally:
        _Inside.part = None
    leaves, form = tree_flatten(made)
    return tree_unflatten([_made(leaf, part, module) for leaf in leaves], form)


def _given(leaf: Any, part: _Part) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.ndim and len(leaf) == part.n:
        return _split(leaf, part)
    return _Share.apply(leaf)[0] if leaf.requires_grad else leaf


def _made(leaf: Any, part: _Part, module: nn.Module) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if not leaf.ndim or len(leaf) != part.stop - part.start:
        raise UsageError(
            f"to be divided among processes, {type(module).__name__} must give a row per sample, but it gives shape "
            f"{tuple(leaf.shape)} for {part.stop - part.start}; train in one process."
        )
    return _join(leaf, part)


class _Rules(TorchFunctionMode):
    """What is different inside a divided network."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.network = network

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func in MASKED:
            return _dropout(func, *args, **kwargs)
        if func.__name__ in DRAWING or (func is F.scaled_dot_product_attention and kwargs.get("dropout_p")):
            raise _draws(self.network, func.__name__)
        return func(*args, **kwargs)


def _draws(network: str, what: str) -> UsageError:
    return UsageError(
        f"{network} draws random numbers by {what}, which every one of several processes would draw anew for its part "
        "of the batch; train it in one process."
    )


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` of the whole batch's moments."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, variance, count = moments(x)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var), momentum)
    shape = [1, -1] + [1] * (x.ndim - 2)
    scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    made = (x - mean.view(shape)) * scale.view(shape)
    return made if bias is None else made + bias.view(shape)


def _dropout(function: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """This process's rows of the mask that one process would draw for the whole batch."""
    if not training or p == 0 or _Inside.part is None:
        return x
    part = _Inside.part.stretched(x)
    strides = x.stride()
    order = sorted(range(x.ndim), key=lambda axis: -strides[axis])  # numbers are drawn in that of the memory
    ones = torch.empty_permuted((part.n, *x.shape[1:]), order, dtype=x.dtype, device=x.device).fill_(1)
    mask: Tensor = function(ones, p, True)
    return x * mask[part.start : part.stop]


# ---- the four maps


def _split(x: Tensor, part: _Part) -> Tensor:
    found: Tensor = _Split.apply(x, part)
    return found


def _join(x: Tensor, part: _Part) -> Tensor:
    found: Tensor = _Join.apply(x, part)
    return found


def _total(x: Tensor) -> Tensor:
    """The sum over processes, for use by each on its part."""
    found: Tensor = _Share.apply(*_Sum.apply(x))[0]
    return found


class _Split(Function):
    """R → S: this process's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: _Part) -> Tensor:
        ctx.part = part
        return x[part.start : part.stop].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _join(grads[0], ctx.part), None


class _Join(Function):
    """S → R: the rows of all. Sums with zeros are exact, and parts may differ in size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: _Part) -> Tensor:
        ctx.part = part
        whole = x.new_zeros((part.n, *x.shape[1:]))
        whole[part.start : part.stop] = x
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _split(grads[0], ctx.part), None


class _Share(Function):
    """R → R, used from here on by each process for its part: gradients are summed."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(tensor.data for tensor in tensors)  # the same memory: what a network writes there stays

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _present(_Sum, grads)


class _Sum(Function):
    """P → R: sums over processes, one message for all tensors of a kind."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        found: dict[int, Tensor] = {}
        for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
            places = [place for place, tensor in enumerate(tensors) if tensor.dtype == kind]
            message = torch.cat([tensors[place].reshape(-1) for place in places])
            dist.all_reduce(message)
            parts = torch.split(message, [tensors[place].numel() for place in places])
            found |= {place: part.view_as(tensors[place]) for place, part in zip(places, parts, strict=True)}
        return tuple(found[place].clone() for place in range(len(tensors)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _present(_Share, grads)


def _present(function: type[Function], grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """``function`` of the gradients that there are."""
    there = [grad for grad in grads if grad is not None]
    found = iter(function.apply(*there) if there else ())
    return tuple(None if grad is None else next(found) for grad in grads)
