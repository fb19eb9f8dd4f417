"""EEG encoders that are contrasted with image features: NICE, ATM-S, and UBP's projection with its blurred pictures.

Song et al. (2024), NICE, https://arxiv.org/abs/2308.13234, code https://github.com/eeyhsong/NICE-EEG (commit a7709d8);
ATM-S (2024), as it stands in LinJiang8/SAMGA; Wu et al. (2025), UBP, https://arxiv.org/abs/2503.04207, code
https://github.com/HaitaoWuTJU/Uncertainty-aware-Blur-Prior (commit 89d8b83); none of that code is used here. Built from
a specification and checked against arrays computed with the authors' modules; names of tensors as published.

``semantics="as_run"`` (default) keeps what the released code does, ``"corrected"`` what it is meant to:

=====  =====================================================  ==================================================
       as run                                                 corrected
=====  =====================================================  ==================================================
nice   the scale of the loss is never trained; image          the scale is trained; image features pass a
       features pass a projection that returns its input;     projection like that of EEG; the best validated
       the best epoch is saved so that loading it changes     epoch is the result
       nothing, so the last one is the result
atm-s  of 64 tokens, the subject's and 63 channels', the      the channels are kept; an unknown subject switches
       first 63 are kept: the last channel is lost; one       its own trial alone; the exponential of the log
       unknown subject switches the whole batch to the        scale multiplies cosines
       shared token; the log scale itself multiplies EEG
       features of any length
ubp    kernels of 45, 45, 51 pixels, since the size is        kernels of 45, 51, 57; cosines
       changed in place; EEG features of any length
=====  =====================================================  ==================================================

ATM-S chose its epoch on the test set; ``zoo train --select test`` does that, and the record says so. Its image features
were those of random crops, and a hundredth of its loss is a contrast with CLIP's text features: neither is here. Ours
are the ``.small`` presets, ``centred``, and, of UBP, what paper and specification leave open (the ``blur_`` options).
All take other recordings than the published ones: kernels and pools are no longer than what they act on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UsageError
from zoo.models.contrastive import ContrastiveConfig, ContrastiveRecipe, ContrastiveRetriever, fitted, looked_up
from zoo.models.layers import check_least, check_shares, configure
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

HEADS = 4
SUBJECTS = 10
"""Rows of ATM-S' table of subjects, numbered from 0; published ids start at 1, so subject 10 is outside of it."""
FIRST_SCALE = math.log(1 / 0.07)


@dataclass(frozen=True)
class RetrievalEncoderConfig(ContrastiveConfig):
    network: Literal["nice", "atm-s", "ubp"] = "nice"
    """Which of the networks."""
    semantics: Literal["as_run", "corrected"] = "as_run"
    """What the released code computes, or what it is meant to."""
    n_features: int = 768
    """Size of a feature: that of the image features it is compared with (768 with NICE, 1024 with the others)."""
    extractor: str = "clip-vit-l14"
    """What looks at pictures, in training and in the gallery."""
    output: str = "features"
    """Which of its outputs; of EfficientNet-Lite0, ``early`` sees colours and edges in places."""
    project_images: bool = False
    """Whether image features pass a trained projection, as NICE's paper has it; its code returns them as they are."""
    centred: bool = False
    """Take the mean over training pictures off image features (ours)."""
    subject: int | None = None
    """Id in ATM-S' table that all trials have; null for the shared token."""
    blur_kernels: tuple[int, ...] = ()
    """UBP: least, usual and most blur of a picture, as width of a Gaussian in pixels of 224; none for none at all."""
    blur_decay: float = 1.0
    """UBP: how fast the sharp picture gives way from the centre outwards (the paper's λ, which it does not tell)."""
    blur_interval: float = 1.0
    """UBP: standard deviations of similarities beyond which blur changes (the paper's z, which it does not tell)."""
    blur_memory: float = 0.9
    """UBP: share of the old value in the moving average of similarities (not told either)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "n_features")
        check_least(self, 0, "subject", "blur_decay", "blur_interval")
        check_shares(self, "blur_memory")
        if self.blur_kernels and (
            len(self.blur_kernels) != 3 or any(size < 1 or size % 2 == 0 for size in self.blur_kernels)
        ):
            raise UsageError(f"blur_kernels must be three odd numbers of pixels or none, but are {self.blur_kernels}.")
        if self.subject is not None and self.network != "atm-s":
            raise UsageError(f"subject of network {self.network} must be null: only atm-s knows subjects.")


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
        weights = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=3)
        mixed = F.dropout(weights, 0.25, self.training) @ value
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
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE))  # of the loss; features do not depend on it

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model(x.flatten(1))
        return features


NETWORKS: dict[str, type[NICE | ATMS | UBP]] = {"nice": NICE, "atm-s": ATMS, "ubp": UBP}


class Comparison(nn.Module):
    """The scale of similarities unless the network has one, and the mean of image features where they are centred."""

    def __init__(self, config: RetrievalEncoderConfig) -> None:
        super().__init__()
        if config.network != "ubp":
            trained = config.network != "nice" or config.semantics == "corrected"
            self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE), requires_grad=trained)
        n = config.n_features
        self.projection: nn.Module = projection(n, n) if config.project_images else nn.Identity()
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(n))


class RetrievalEncoder(ContrastiveRetriever):
    """One of the networks; its features are compared with those of images by their cosine."""

    def __init__(self, spec: EEGSpec, config: RetrievalEncoderConfig) -> None:
        super().__init__(spec, config)
        self.config: RetrievalEncoderConfig = config
        self.extractor, self.output, self.n_image_features = config.extractor, config.output, config.n_features
        self.encoder = NETWORKS[config.network](spec, config)
        self.as_run = config.semantics == "as_run"
        self.comparison = Comparison(config)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "comparison": self.comparison}

    def encode(self, eeg: Tensor, subjects: Tensor | None = None) -> Tensor:
        """Features of EEG, not normalised.

        Shape:
            eeg: (n_trials, n_channels, n_times); subjects: (n_trials,) ids of ATM-S' table, from 0, None for the
            config's; the other networks know no subjects.
            returns: (n_trials, n_features).
        """
        if subjects is None and self.config.subject is not None:
            subjects = torch.full((len(eeg),), self.config.subject, device=eeg.device)
        given = () if subjects is None else (subjects,)
        features: Tensor = self.encoder(eeg, *given)
        return features

    def embed_images(self, features: Tensor) -> Tensor:
        """Image features, less their mean over training pictures or as they are, projected or not.

        Shape:
            features: (n, n_features); returns: the same.
        """
        made: Tensor = self.comparison.projection(features - self.comparison.centre)
        return made

    def similarities(self, eeg: Tensor, images: Tensor) -> Tensor:
        """Scaled cosines; as run, of atm-s and ubp the length of EEG features counts."""
        images, name = F.normalize(images), self.config.network
        if name == "nice" or not self.as_run:
            eeg = F.normalize(eeg)
        log = self.encoder.logit_scale if isinstance(self.encoder, UBP) else self.comparison.logit_scale
        if not self.as_run or name == "nice":
            scale = log.exp()
        else:
            scale = F.softplus(log) if name == "ubp" else log
        return scale * eeg @ images.T


def build(spec: EEGSpec, **overrides: Any) -> RetrievalEncoder:
    """An untrained encoder for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``RetrievalEncoderConfig``, its value is not possible, or the recordings
            are too short.
    """
    return RetrievalEncoder(spec, configure(RetrievalEncoderConfig, overrides))


def fovea_blur(image: np.ndarray, kernel: int, *, decay: float = 1.0) -> np.ndarray:
    """A picture that is sharp where people look, in the centre, and blurred around it (UBP, equations 2 to 5).

    α x + (1 - α) G∗x with α = exp(-decay · d / L), d the distance from the centre and L its largest value. The Gaussian
    is ``kernel`` pixels wide, with torchvision's standard deviation for that, 0.15 · kernel + 0.35.

    Shape:
        image: (height, width, 3) uint8; returns: (224, 224, 3) uint8.
    """
    from torchvision.transforms.functional import gaussian_blur

    sharp = torch.from_numpy(fitted(image)).permute(2, 0, 1).float()
    place = torch.arange(224) - 111.5
    distance = torch.hypot(place[:, None], place)
    weight = torch.exp(-decay * distance / distance.max())
    mixed = weight * sharp + (1 - weight) * gaussian_blur(sharp, [kernel, kernel])
    pixels: np.ndarray = mixed.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


class Blurred(Sequence[np.ndarray]):
    """Pictures as ``fovea_blur`` makes them, one by one whenever one is asked for."""

    def __init__(self, images: Sequence[np.ndarray], kernel: int, decay: float) -> None:
        self.images, self.kernel, self.decay = images, kernel, decay

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Blurred: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Blurred:
        if isinstance(index, slice):
            return Blurred(self.images[index], self.kernel, self.decay)
        return fovea_blur(self.images[index], self.kernel, decay=self.decay)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


class Uncertainty(nn.Module):
    """How similar each training pair was lately, which decides how its picture is blurred next (equations 6 to 10)."""

    def __init__(self, n_pairs: int, config: RetrievalEncoderConfig) -> None:
        super().__init__()
        self.interval, self.memory = config.blur_interval, config.blur_memory
        self.similarity: Tensor
        self.register_buffer("similarity", torch.full((n_pairs,), torch.nan))

    def levels(self, batch: Tensor) -> Tensor:
        """Which kernel each pair has, 0 to 2: the first below the interval, the last above it, else the second.

        That is equation 10; the paper's text, which blurs more where the mismatch is larger, says the reverse of it.
        """
        known = self.similarity[self.similarity.isfinite()]
        if len(known) < 2:
            return torch.ones_like(batch)
        off = (self.similarity[batch] - known.mean()) / known.std()
        return 1 + (off > self.interval).long() - (off < -self.interval).long()

    def update(self, batch: Tensor, similarity: Tensor) -> None:
        """A moving average of the similarity of each pair."""
        old = self.similarity[batch]
        mixed = self.memory * old + (1 - self.memory) * similarity
        self.similarity[batch] = torch.where(old.isnan(), similarity, mixed)


class BlurRecipe(ContrastiveRecipe):
    """The contrast with pictures blurred as much as the similarity of each pair asks for."""

    def __init__(
        self, model: RetrievalEncoder, data: TrainingData, *, seed: int, select: Literal["val", "last"]
    ) -> None:
        config = model.config
        super().__init__(model, data, family=config.network, seed=seed, select=select)
        pictures = (Blurred(data.images, kernel, config.blur_decay) for kernel in config.blur_kernels)
        everything = np.arange(len(data.images))
        self.blurred = torch.stack([looked_up(model, data, blurred)(everything) for blurred in pictures])
        self.uncertainty = Uncertainty(len(self.pairs), config).to(self.blurred.device)

    def modules(self) -> dict[str, nn.Module]:
        return {**super().modules(), "uncertainty": self.uncertainty}

    def target(self, batch: np.ndarray) -> Tensor:
        device = self.blurred.device
        levels = self.uncertainty.levels(torch.tensor(batch).to(device))
        return self.blurred[levels, torch.from_numpy(self.pairs.pictures[batch]).to(device)]

    def learn(self, batch: np.ndarray, similarities: Tensor) -> None:
        self.uncertainty.update(torch.tensor(batch).to(similarities.device), similarities.diagonal())


def recipes(
    model: RetrievalEncoder, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """One phase, ``encoder``: contrast of EEG features with features of the pictures shown.

    NICE as run keeps its last epoch, whatever ``select`` says.

    Raises:
        UsageError: Trials have no pictures of their own, there are too few, or the extractor makes another number of
            features.
    """
    config = model.config
    if config.network == "nice" and model.as_run:
        select = "last"
    recipe: ContrastiveRecipe
    if config.blur_kernels:
        recipe = BlurRecipe(model, data, seed=seed, select=select)
    else:
        recipe = ContrastiveRecipe(model, data, family=config.network, seed=seed, select=select)
    if config.centred:
        model.comparison.centre.copy_(recipe.targets(np.unique(recipe.pairs.pictures)).mean(dim=0))
    return [recipe]
