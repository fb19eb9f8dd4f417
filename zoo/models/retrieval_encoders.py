"""EEG encoders that are contrasted with image features (NICE, ATM-S, UBP's projection): networks, not their training.

NICE (2024), https://github.com/eeyhsong/NICE-EEG (commit a7709d8); ATM-S (2024), as it stands in LinJiang8/SAMGA; UBP
(2025), https://github.com/HaitaoWuTJU/Uncertainty-aware-Blur-Prior (commit 89d8b83); none of that code is used here.
Built from a specification and checked against arrays computed with the authors' modules; names of tensors as published.

``semantics="as_run"`` (default) of ATM-S keeps what its module does: of 64 tokens, the subject's and 63 channels', the
first 63 are kept, so that the subject stands where a channel should and the last channel is lost; and one subject id
outside of the table switches the whole batch to the shared token. ``"corrected"`` keeps the channels and switches that
trial alone.

All three take other recordings than the published ones: kernels and pools are no longer than what they act on (ours).
**The training recipe is not in this release**: it needs features of every training picture by a CLIP network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UsageError
from zoo.models.base import EEGEncoder
from zoo.models.cvpr_lstm import check_least, check_words
from zoo.models.layers import configure
from zoo.specs import EEGSpec
from zoo.training import TrainingData

HEADS = 4
SUBJECTS = 10
"""Rows of ATM-S' table of subjects, numbered from 0; published ids start at 1, so subject 10 is outside of it."""


@dataclass(frozen=True)
class RetrievalEncoderConfig:
    network: Literal["nice", "atm-s", "ubp"] = "nice"
    """Which of the networks."""
    semantics: Literal["as_run", "corrected"] = "as_run"
    """What the released module computes, or what it is meant to (atm-s)."""
    n_features: int = 768
    """Size of a feature: that of the image features it is compared with (768 with NICE, 1024 with the others)."""

    def __post_init__(self) -> None:
        if self.network not in ("nice", "atm-s", "ubp"):
            raise UsageError(f"network must be one of nice, atm-s, ubp, but is {self.network!r}.")
        check_words(self, semantics=("as_run", "corrected"))
        if self.semantics == "corrected" and self.network != "atm-s":
            raise UsageError(
                f"semantics of network {self.network} must be 'as_run': there is nothing to correct in it."
            )
        check_least(self, 1, "n_features")


class Residual(nn.Module):
    """GELU, linear and dropout, added to the input."""

    def __init__(self, n: int, dropout: float, called: str) -> None:
        super().__init__()
        self._called = called
        self.add_module(called, nn.Sequential(nn.GELU(), nn.Linear(n, n), nn.Dropout(dropout)))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.get_submodule(self._called)(x)
        return made


def projection(n_in: int, n_out: int, *, dropout: float = 0.5, called: str = "fn") -> nn.Sequential:
    """Linear, residual, layer norm: what makes features of the size of an image's."""
    return nn.Sequential(nn.Linear(n_in, n_out), Residual(n_out, dropout, called), nn.LayerNorm(n_out))


class TemporalSpatialConv(nn.Module):
    """Filters and means over time, then one filter across channels: (n, n_channels, n_times) → (n, n_features)."""

    WIDTH = 40

    def __init__(self, n_channels: int, n_times: int) -> None:
        super().__init__()
        kernel = min(25, n_times)
        pool = min(51, n_times - kernel + 1)
        self.tsconv = nn.Sequential(
            nn.Conv2d(1, self.WIDTH, (1, kernel)),
            nn.AvgPool2d((1, pool), (1, 5)),
            nn.BatchNorm2d(self.WIDTH),
            nn.ELU(),
            nn.Conv2d(self.WIDTH, self.WIDTH, (n_channels, 1)),
            nn.BatchNorm2d(self.WIDTH),
            nn.ELU(),
            nn.Dropout(0.5),
        )
        self.projection = nn.Sequential(nn.Conv2d(self.WIDTH, self.WIDTH, 1))
        self.n_features = self.WIDTH * ((n_times - kernel + 1 - pool) // 5 + 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.projection(self.tsconv(x[:, None]))
        return maps[:, :, 0].transpose(1, 2).flatten(1)


class NICE(nn.Module):
    """Temporal-spatial convolution and projection."""

    def __init__(self, spec: EEGSpec, config: RetrievalEncoderConfig) -> None:
        super().__init__()
        convolution = TemporalSpatialConv(spec.n_channels, spec.n_times)
        self.Enc_eeg = nn.Sequential(convolution)
        self.Proj_eeg = projection(convolution.n_features, config.n_features)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.Proj_eeg(self.Enc_eeg(x))
        return features


class SubjectEmbedding(nn.Module):
    """A token for every known subject, and one that all others share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared_embedding = nn.Parameter(torch.randn(1, width))
        self.mask_embedding = nn.Parameter(torch.randn(1, width))  # never used
        self.subject_embedding = nn.Embedding(SUBJECTS, width)

    def forward(self, subjects: Tensor, *, together: bool) -> Tensor:
        """(n,) ids → (n, 1, width); an id outside the table has the shared token, ``together`` with its whole batch."""
        known = (subjects >= 0) & (subjects < SUBJECTS)
        if together:
            known = known.all().expand_as(known)
        own = self.subject_embedding(subjects.clamp(0, SUBJECTS - 1))
        return torch.where(known[:, None], own, self.shared_embedding)[:, None]


class TemporalEmbedding(nn.Module):
    """Of time stamps, which nobody gives: never used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width, bias=False)


class ChannelEmbedding(nn.Module):
    """One token per channel by a linear layer over its samples, behind that of the subject."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.randn(1, width))  # never used
        self.value_embedding = nn.Linear(width, width)
        self.temporal_embedding = TemporalEmbedding(width)
        self.subject_embedding = SubjectEmbedding(width)

    def forward(self, x: Tensor, subjects: Tensor, *, together: bool) -> Tensor:
        tokens = [self.subject_embedding(subjects, together=together), self.value_embedding(x)]
        return F.dropout(torch.cat(tokens, dim=1), 0.25, self.training)


class Attention(nn.Module):
    """Four heads, each a quarter as wide as a token, rounded down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = HEADS * (width // HEADS)
        self.query_projection = nn.Linear(width, inner)
        self.key_projection = nn.Linear(width, inner)
        self.value_projection = nn.Linear(width, inner)
        self.out_projection = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.query_projection, self.key_projection, self.value_projection)
        query, key, value = (layer(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in layers)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=0.25 if self.training else 0.0)
        made: Tensor = self.out_projection(mixed.transpose(1, 2).flatten(2))
        return made


class EncoderLayer(nn.Module):
    """Attention and two linear layers, each added to its input and then normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.conv1, self.conv2 = nn.Conv1d(width, 256, 1), nn.Conv1d(256, width, 1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + F.dropout(self.attention(x), 0.25, self.training))
        inner = F.dropout(F.gelu(self.conv1(x.transpose(1, 2))), 0.25, self.training)
        made: Tensor = self.norm2(x + F.dropout(self.conv2(inner).transpose(1, 2), 0.25, self.training))
        return made


class Layers(nn.Module):
    """Encoder layers and a last norm."""

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.attn_layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.attn_layers:
            x = layer(x)
        made: Tensor = self.norm(x)
        return made


class ChannelTransformer(nn.Module):
    """Attention over channels: (n, n_channels, n_times) → tokens (n, 1 + n_channels, n_times), the subject's first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enc_embedding = ChannelEmbedding(width)
        self.encoder = Layers([EncoderLayer(width)], width)

    def forward(self, x: Tensor, subjects: Tensor, *, together: bool) -> Tensor:
        made: Tensor = self.encoder(self.enc_embedding(x, subjects, together=together))
        return made


class ATMS(nn.Module):
    """Attention over channels, then NICE's convolution and a projection."""

    def __init__(self, spec: EEGSpec, config: RetrievalEncoderConfig) -> None:
        super().__init__()
        if spec.n_times < HEADS:
            raise UsageError(
                f"atm-s needs at least {HEADS} times, one per head, but the recordings have {spec.n_times}."
            )
        self.as_run = config.semantics == "as_run"
        self.encoder = ChannelTransformer(spec.n_times)
        self.subject_wise_linear = nn.ModuleList(nn.Linear(spec.n_times, spec.n_times) for _ in range(2))  # never used
        convolution = TemporalSpatialConv(spec.n_channels, spec.n_times)
        self.enc_eeg = nn.Sequential(convolution)
        self.proj_eeg = projection(convolution.n_features, config.n_features)

    def forward(self, x: Tensor, subjects: Tensor | None = None) -> Tensor:
        if subjects is None:
            subjects = torch.full((len(x),), -1, device=x.device)
        tokens = self.encoder(x, subjects, together=self.as_run)
        features: Tensor = self.proj_eeg(self.enc_eeg(tokens[:, :-1] if self.as_run else tokens[:, 1:]))
        return features


class UBP(nn.Module):
    """A projection of all samples of all channels."""

    def __init__(self, spec: EEGSpec, config: RetrievalEncoderConfig) -> None:
        super().__init__()
        self.model = projection(spec.n_channels * spec.n_times, config.n_features, dropout=0.3, called="f")
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # of the loss; features do not depend on it

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model(x.flatten(1))
        return features


NETWORKS: dict[str, type[NICE | ATMS | UBP]] = {"nice": NICE, "atm-s": ATMS, "ubp": UBP}


class RetrievalEncoder(EEGEncoder):
    """One of the networks; its features are compared with those of images by their cosine."""

    def __init__(self, spec: EEGSpec, config: RetrievalEncoderConfig) -> None:
        super().__init__(spec, config)
        self.config: RetrievalEncoderConfig = config
        self.encoder = NETWORKS[config.network](spec, config)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def encode(self, eeg: Tensor, subjects: Tensor | None = None) -> Tensor:
        """Features of EEG, not normalised.

        Shape:
            eeg: (n_trials, n_channels, n_times); subjects: (n_trials,) ids of ATM-S' table, from 0, None for unknown
            ones; the other networks know no subjects.
            returns: (n_trials, n_features).
        """
        given = () if subjects is None else (subjects,)
        features: Tensor = self.encoder(eeg, *given)
        return features


def build(spec: EEGSpec, **overrides: Any) -> RetrievalEncoder:
    """An untrained encoder for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``RetrievalEncoderConfig``, its value is not possible, or the recordings
            are too short.
    """
    return RetrievalEncoder(spec, configure(RetrievalEncoderConfig, overrides))


def recipes(
    model: RetrievalEncoder, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> NoReturn:
    """Refused: there is no training in this release.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        f"training {model.config.network} needs CLIP features of every training picture, and its recipe is not in this "
        "release; train it in Python and evaluate the model you have there."
    )
