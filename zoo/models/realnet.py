"""ReAlnet: CORnet-S fine-tuned so that a head on its four areas predicts human EEG; and CORnet-S itself, as a baseline.

Lu, Wang, Golomb (2026), Communications Biology 9:463, https://doi.org/10.1038/s42003-026-09685-w, preprint
https://arxiv.org/abs/2401.17231; repositories jglab/ReAlnet and https://github.com/ZitongLu1996/ReAlnet (commit
95d2bdd), not used here. Built from a specification and checked against arrays computed with the authors' modules.

A published model is one person's. Ours holds a network for each of ``subjects``, trained one after the other; with none
it is one network for everybody. Defaults are those of jglab's script as run; presets name the others:

=========================  =====================================================  =====================================
                           as run                                                 corrected
=========================  =====================================================  =====================================
contrastive term           no gradient: of the loss only task and MSE train       trains, with Pearson's correlation
order of people            ``chained``: the backbone of one goes on from that of  ``each`` starts from CORnet-S
                           the one before, only heads are new
forward in training        the backbone runs twice, so batch norm's averages      once
                           move twice per step
choice of the epoch        by loss on the test pictures                           by loss on validation pictures
targets                    how mean and deviation for the z-scores were computed is not published; here they are those
                           of the training targets
=========================  =====================================================  =====================================

Chained people go on from the state that was kept: the last one with ``--select last``, as in the released script, whose
saved state is another. Outside of ``window`` a prediction is the mean training response.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from zoo import weights
from zoo.errors import MissingError, UsageError
from zoo.models.base import EncodingModel
from zoo.models.contrastive import Pairs
from zoo.models.cornet import AREAS, STEPS, WIDTHS, CORnetS, Seen, map_sizes, normalised
from zoo.models.layers import check_least, check_positive, configure, epoch_batch, steps_per_epoch
from zoo.models.recipes import device_of, trainable, update
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

IMAGENET = "cornet_s-1d3f7974.pth"
"""The ImageNet weights as their authors name them: the digits begin the sha256 of the file."""
IMAGENET_URL = f"https://s3.amazonaws.com/cornet-models/{IMAGENET}"


@dataclass(frozen=True)
class ReAlNetConfig:
    """One ReAlnet per person. Defaults are those of ``ReAlnet.py`` in jglab/ReAlnet."""

    subjects: tuple[str, ...] = ()
    """Whose networks there are; none for one network for everybody."""
    resolution: int = 224
    """Height and width of the pictures."""
    widths: tuple[int, int, int, int] = WIDTHS
    """Channels of V1, V2, V4 and IT."""
    recurrence: tuple[int, int, int] = STEPS
    """How often V2, V4 and IT are gone through."""
    n_objects: int = 1000
    """Logits of the decoder."""
    head_width: int = 128
    """Units of the head for each area."""
    outputs: Literal["window", "mean-trace"] = "window"
    """Every channel at every time of the window, or the mean over channels at all times, of which the window trains."""
    window: tuple[float, float] = (0.0, 0.19)
    """First and last time that is learnt, seconds from stimulus onset."""
    init: Literal["imagenet", "random"] = "imagenet"
    """What the backbone starts from: the authors' ImageNet weights, converted on this machine, or chance."""
    train_backbone: bool = True
    """Fine-tune the backbone; otherwise only the head learns, and there is no task loss."""
    task: Literal["mse", "soft-ce-raw", "pseudo-ce"] = "mse"
    """Loss that keeps the decoder near that of the start: of logits, of them as raw soft targets, of their largest."""
    rho: Literal["pearson", "spearman"] = "spearman"
    """Correlation in the contrastive term."""
    contrastive_gradient: bool = False
    """Whether the contrastive term trains anything; Spearman's has no gradient."""
    beta: float = 100.0
    """Weight of the EEG loss."""
    order: Literal["chained", "each"] = "chained"
    """Whether a person's backbone starts from the one before or from the start."""
    double_forward: bool = True
    """Run the backbone twice in training: what comes out is the same, batch norm's running averages are not."""
    teacher: Literal["eval", "train"] = "eval"
    """Mode of the network that the task loss compares with; in training mode it follows the batch."""
    lr: float = 2e-6
    """Adam's learning rate."""
    batch_size: int = 16
    """Pictures per step."""
    epochs: int = 25
    """Passes over the training pictures of a person."""
    steps: int | None = None
    """Steps per person, instead of ``epochs``."""

    def __post_init__(self) -> None:
        check_least(self, 1, "n_objects", "head_width", "batch_size")
        check_least(self, 33, "resolution")  # so that batch norm finds two places in IT even of a single picture
        check_least(self, 0, "beta", "epochs", "steps")
        check_positive(self, "lr")
        if min(*self.widths, *self.recurrence) < 1:
            raise UsageError(
                f"widths and recurrence must be 1 or more, but are {self.widths} and {self.recurrence}; choose others."
            )
        if self.contrastive_gradient and self.rho == "spearman":
            raise UsageError("contrastive_gradient needs rho='pearson': ranks have no gradient.")
        if len(set(self.subjects)) < len(self.subjects):
            raise UsageError(f"subjects must differ, but are {', '.join(self.subjects)}.")


class Head(nn.Module):
    """A linear layer with ReLU on each area's map, and one on all four: maps → (n, n_out)."""

    def __init__(self, n_out: int, config: ReAlNetConfig) -> None:
        super().__init__()
        for area, channels, side in zip(AREAS, config.widths, map_sizes(config.resolution), strict=True):
            self.add_module(f"fc_{area.lower()}", nn.Linear(channels * side**2, config.head_width))
        self.fc = nn.Linear(len(AREAS) * config.head_width, n_out)

    def features(self, *areas: Tensor) -> tuple[Tensor, ...]:
        """The four of (n, head_width)."""
        layers = (self.get_submodule(f"fc_{area.lower()}") for area in AREAS)
        return tuple(F.relu(layer(area.flatten(1))) for layer, area in zip(layers, areas, strict=True))

    def forward(self, *areas: Tensor) -> Tensor:
        made: Tensor = self.fc(torch.cat(self.features(*areas), dim=1))
        return made


class Targets(nn.Module):
    """How responses become what a network learns, and back: z-scores of the outputs; the mean response elsewhere."""

    def __init__(self, n_out: int, spec: EEGSpec) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.elsewhere: Tensor
        self.register_buffer("mean", torch.zeros(n_out))
        self.register_buffer("std", torch.ones(n_out))
        self.register_buffer("elsewhere", torch.zeros(spec.n_channels, spec.n_times))


class ReAlNet(EncodingModel):
    """Backbone, head and scaling of every person: ``backbone0``, ``head0``, ``targets0``, then ``backbone1``."""

    def __init__(self, spec: EEGSpec, config: ReAlNetConfig) -> None:
        super().__init__(spec, config)
        self.config: ReAlNetConfig = config
        self.resolution, self.subjects = config.resolution, config.subjects
        times = np.round(spec.tmin + np.arange(spec.n_times) / spec.sfreq, 9)
        self.learnt = np.flatnonzero((times >= config.window[0]) & (times <= config.window[1]))
        if not len(self.learnt):
            raise UsageError(
                f"window must hold a sample, but {config.window[0]:g} to {config.window[1]:g} s has none of the "
                f"{spec.n_times} from {times[0]:g} to {times[-1]:g} s; choose another."
            )
        n_out = spec.n_times if config.outputs == "mean-trace" else spec.n_channels * len(self.learnt)
        self.n_networks = max(1, len(config.subjects))
        for k in range(self.n_networks):
            self.add_module(f"backbone{k}", CORnetS(config.widths, config.recurrence, config.n_objects))
            self.add_module(f"head{k}", Head(n_out, config))
            self.add_module(f"targets{k}", Targets(n_out, spec))

    def parts(self) -> dict[str, nn.Module]:
        return dict(self.named_children())

    def network(self, k: int) -> tuple[CORnetS, Head, Targets]:
        """Backbone, head and scaling of one person."""
        backbone, head, targets = (self.get_submodule(f"{name}{k}") for name in ("backbone", "head", "targets"))
        assert isinstance(backbone, CORnetS)
        assert isinstance(head, Head)
        assert isinstance(targets, Targets)
        return backbone, head, targets

    def activations(self, images: Tensor, subject: str | None = None) -> Seen:
        """Maps of the four areas and logits, of one person's backbone (None for the first).

        Shape:
            images: (n, 3, resolution, resolution) in [0, 1].
        """
        seen: Seen = self.network(self.subjects.index(subject) if subject else 0)[0](normalised(images))
        return seen

    def see(self, images: Tensor) -> Tensor:
        """Outputs of every network, z-scores: (n, n_networks, n_out)."""
        x = normalised(images)
        networks = [self.network(k) for k in range(self.n_networks)]
        return torch.stack([head(*backbone(x).areas) for backbone, head, _ in networks], dim=1)

    def respond(self, seen: Tensor, subject: str | None = None) -> Tensor:
        known = [self.subjects.index(subject)] if subject in self.subjects else range(self.n_networks)
        return torch.stack([self._unfold(seen[:, k], self.network(k)[2]) for k in known]).mean(dim=0)

    def fold(self, responses: Tensor) -> Tensor:
        """What a network learns of responses, before z-scores: (n, n_channels, n_times) → (n, n_out)."""
        if self.config.outputs == "mean-trace":
            return responses.mean(dim=1)
        return responses[:, :, torch.from_numpy(self.learnt)].flatten(1)

    def _unfold(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Responses (n, n_channels, n_times) from z-scores (n, n_out)."""
        values = outputs * targets.std + targets.mean
        response = targets.elsewhere.repeat(len(outputs), 1, 1)
        learnt = torch.from_numpy(self.learnt).to(outputs.device)
        if self.config.outputs == "mean-trace":
            response[:, :, learnt] = values[:, None, learnt]
        else:
            response[:, :, learnt] = values.view(len(values), self.spec.n_channels, -1)
        return response

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        made = super().probe(rng)
        images = torch.from_numpy(rng.random((2, 3, self.resolution, self.resolution), dtype=np.float32))
        return {**made, "logits": self.activations(images).logits}


def build(spec: EEGSpec, **overrides: Any) -> ReAlNet:
    """An untrained model for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``ReAlNetConfig``, its value is not possible, or no sample is learnt.
    """
    return ReAlNet(spec, configure(ReAlNetConfig, overrides))


# ---- the loss


def correlations(predicted: Tensor, observed: Tensor, rho: Literal["pearson", "spearman"] = "pearson") -> Tensor:
    """Correlation over features of every prediction with every response: (n, d), (m, d) → (n, m).

    Ranks are those of the order; equal values, which real numbers from a linear layer never are, would be told apart.
    """
    if rho == "spearman":
        predicted, observed = (x.argsort(dim=1).argsort(dim=1).to(x.dtype) for x in (predicted, observed))
    predicted, observed = (F.normalize(x - x.mean(dim=1, keepdim=True)) for x in (predicted, observed))
    return predicted @ observed.T


def contrastive_term(correlation: Tensor) -> Tensor:
    """1 - mean of the right correlations + mean of the others: (n, n) with right ones on the diagonal → scalar."""
    n, right = len(correlation), correlation.diagonal().sum()
    return 1 - right / n + (correlation.sum() - right) / max(1, n * (n - 1))


def eeg_loss(predicted: Tensor, observed: Tensor, config: ReAlNetConfig) -> Tensor:
    """Mean squared error and contrastive term, (n, n_out) both."""
    with torch.set_grad_enabled(config.contrastive_gradient and torch.is_grad_enabled()):
        contrast = contrastive_term(correlations(predicted, observed, config.rho))
    return F.mse_loss(predicted, observed) + contrast


def task_loss(logits: Tensor, taught: Tensor, kind: Literal["mse", "soft-ce-raw", "pseudo-ce"]) -> Tensor:
    """How far logits (n, n_objects) are from those of the start.

    ``soft-ce-raw`` takes the teacher's logits themselves for probabilities, as a released script does, so it can be
    negative.
    """
    if kind == "mse":
        return F.mse_loss(logits, taught)
    return F.cross_entropy(logits, taught if kind == "soft-ce-raw" else taught.argmax(dim=1))


# ---- training


class ReAlNetRecipe(Recipe):
    """One person's network. The state with the lowest loss on validation pictures is kept, where there are some."""

    def __init__(
        self,
        model: ReAlNet,
        data: TrainingData,
        *,
        person: int,
        teacher: CORnetS,
        seed: int,
        select: Literal["val", "last"],
    ) -> None:
        self.model, self.data, self.config, self.teacher = model, data, model.config, teacher
        self.name = f"subject{model.subjects[person]}" if model.subjects else "everybody"
        self.key = ("realnet", self.name, seed)
        self.backbone, self.head, self.targets = model.network(person)
        self.pairs, self.own = self._pairs("train", person)
        if not len(self.own):
            raise UsageError(
                f"training needs pictures that {self.name} saw, but the train role has none; choose another split."
            )
        self.observed = self._measure()
        learning = [self.backbone, self.head] if self.config.train_backbone else [self.head]
        self.learning = learning
        self.optimizer = Adam([weight for module in learning for weight in trainable(module)], lr=self.config.lr)
        epoch = steps_per_epoch(len(self.own), self.config.batch_size)
        self.n_steps = self.config.epochs * epoch if self.config.steps is None else self.config.steps
        self.val_pairs, self.val_own = self._pairs("val", person)
        if select == "val" and len(self.val_own):
            self.eval_every = epoch

    def modules(self) -> dict[str, nn.Module]:
        changing = {"teacher": self.teacher} if self.config.teacher == "train" else {}
        return {"backbone": self.backbone, "head": self.head, "targets": self.targets, **changing}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"realnet": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        batch = epoch_batch(step, n=len(self.own), batch_size=self.config.batch_size, key=self.key)
        self.backbone.train(self.config.train_backbone)
        self.head.train()
        self.teacher.train(self.config.teacher == "train")
        images = self._images(self.data.images, self.pairs.pictures[self.own[batch]])
        predicted, logits = self._forward(images)
        eeg = eeg_loss(predicted, self.observed[torch.tensor(batch)].to(images.device), self.config)
        task = self._task(images, logits)
        update(self.optimizer, task + self.config.beta * eeg, *self.learning)
        return {"task": task.item(), "eeg": eeg.item()}

    @torch.no_grad()
    def validate(self) -> float:
        """Minus the loss on all validation pictures at once."""
        for module in (self.backbone, self.head, self.teacher):
            module.eval()
        pairs, own, size = self.val_pairs, self.val_own, self.model.micro_batch
        predicted, observed, task = [], [], 0.0
        for block in np.split(own, range(size, len(own), size)):
            images = self._images(self.data.val_images, pairs.pictures[block])
            seen: Seen = self.backbone(images)
            predicted.append(self.head(*seen.areas))
            observed.append(self._z(self.model.fold(pairs.eeg(self.data, block, images.device))))
            task += self._task(images, seen.logits).item() * len(block) / len(own)
        loss = eeg_loss(torch.cat(predicted)[:, self._scored], torch.cat(observed)[:, self._scored], self.config)
        return -task - self.config.beta * loss.item()

    @property
    def _scored(self) -> slice:
        """Outputs that the loss compares."""
        if self.config.outputs == "window":
            return slice(None)
        return slice(int(self.model.learnt[0]), int(self.model.learnt[-1]) + 1)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions of the outputs that the loss compares, and logits."""
        with torch.set_grad_enabled(self.config.train_backbone):
            seen: Seen = self.backbone(images)
            again = self.backbone(images) if self.config.double_forward and self.config.train_backbone else seen
        return self.head(*again.areas)[:, self._scored], seen.logits

    def _task(self, images: Tensor, logits: Tensor) -> Tensor:
        if not self.config.train_backbone:
            return logits.new_zeros(())
        with torch.no_grad():
            taught = self.teacher(images).logits
        return task_loss(logits, taught, self.config.task)

    def _images(self, pictures: Any, rows: np.ndarray) -> Tensor:
        """Pictures of a role as the backbone takes them, (n, 3, resolution, resolution)."""
        return normalised(self.model.pixels([pictures[int(row)] for row in rows]).to(device_of(self.model)))

    def _pairs(self, role: Literal["train", "val"], person: int) -> tuple[Pairs, np.ndarray]:
        """What people saw in this role, with the mean over repetitions, and which of it this person did."""
        pairs = Pairs.of(self.data, role, "mean")
        if not self.model.subjects or not len(pairs):
            return pairs, np.arange(len(pairs))
        assert self.data.subjects is not None
        people = self.data.subjects[pairs.rows[pairs.starts[:-1]]]
        return pairs, np.flatnonzero(people == self.model.subjects[person])

    @torch.no_grad()
    def _measure(self) -> Tensor:
        """Z-scores of this person's training targets, (n, n_scored), on the cpu; keeps what they are scaled by."""
        blocks = np.array_split(self.own, -(-len(self.own) // 1024))
        total, folded = torch.zeros(self.targets.elsewhere.shape, dtype=torch.float64), []
        for block in blocks:
            responses = self.pairs.eeg(self.data, block, torch.device("cpu"))
            total += responses.sum(dim=0, dtype=torch.float64)
            folded.append(self.model.fold(responses))
        outputs = torch.cat(folded)
        std, mean = torch.std_mean(outputs.double(), dim=0, correction=0)
        self.targets.elsewhere.copy_(total / len(self.own))
        self.targets.mean.copy_(mean)
        self.targets.std.copy_(torch.where(std > 0, std, 1.0))
        return self._z(outputs.to(self.targets.mean.device)).cpu()[:, self._scored]

    def _z(self, outputs: Tensor) -> Tensor:
        return (outputs - self.targets.mean) / self.targets.std


def recipes(
    model: ReAlNet, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> Iterator[Recipe]:
    """One phase per person, in the order of ``subjects``; made when its turn comes, since chained ones build on others.

    Raises:
        MissingError: The backbone is to start from ImageNet weights, which are not on this machine.
        UsageError: A trial has no picture of its own, or somebody has no training trials.
    """
    first = model.network(0)[0]
    if model.config.init == "imagenet":
        first.load_state_dict(imagenet_state())
    start = copy.deepcopy(first).requires_grad_(False)
    for person in range(model.n_networks):
        if person:
            before = model.network(person - 1)[0] if model.config.order == "chained" else start
            model.network(person)[0].load_state_dict(before.state_dict())
        teacher = copy.deepcopy(start)
        yield ReAlNetRecipe(model, data, person=person, teacher=teacher, seed=seed, select=select)


def imagenet_state() -> dict[str, Tensor]:
    """CORnet-S as its authors trained it on ImageNet, from the weights converted on this machine.

    Raises:
        MissingError: None are here. Their sha256 is not published beyond its first digits, so nothing is fetched.
    """
    from safetensors.torch import load_file

    digits = Path(IMAGENET).stem.partition("-")[2]
    others = []
    for folder, info in weights.available("cornet-s"):
        for sha in map(str, info.receipt.get("source_sha256", {}).values()):
            if sha.startswith(digits):
                weights.read_info(folder)
                state = load_file(folder / "model.safetensors")
                prefix = "backbone0."
                return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            others.append(f"; {info.name} is of a file whose sha256 begins with {sha[:8]}")
    raise MissingError(
        f"ReAlnet starts from CORnet-S trained on ImageNet ({IMAGENET}), which is not on this machine and cannot be "
        f"fetched, since only the first digits of its sha256 are published{''.join(others)}.\n"
        f"to make it, run: curl -LO {IMAGENET_URL} && zoo weights convert cornet-s --from {IMAGENET}   "
        f"or start from chance: --set init=random"
    )
