"""How well predicted EEG matches the EEG that pictures evoked, beside what its noise allows. float64, no torch.

Predictions are (n_images, n_channels, n_times); measured responses have an axis of repetitions after the first. In the
split-half protocol every prediction is compared with the mean of half 1 of the repetitions. Half 2 in place of the
prediction gives the lower noise ceiling; the mean of all repetitions, which holds half 1, gives the upper one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_features
from zoo.metrics.retrieval import count_above, own_similarity, top_k_accuracy
from zoo.stats import keyed_rng

_BLOCK = 64
"""Channel × time cells whose repetitions are compared at once: a few MB, whatever the recording's size."""
_PER_PSEUDO_TRIAL = 4


@dataclass(frozen=True)
class Ceilinged:
    """Values of a prediction and of both noise ceilings, all of the same shape."""

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def mean(self, **detail: float) -> Score:
        ceilings = {"lower": float(self.lower.mean()), "upper": float(self.upper.mean())}
        return Score(float(self.value.mean()), detail=ceilings | detail)


def half_splits(repetitions: int, *, iterations: int = 100, seed: int = 0) -> np.ndarray:
    """(iterations, repetitions // 2) repetitions that form half 2, drawn without replacement; the rest is half 1.

    Raises:
        UsageError: There are fewer than two repetitions or no iterations.
    """
    if repetitions < 2 or iterations < 1:
        raise UsageError(
            f"a noise ceiling needs at least 2 repetitions and 1 iteration but got {repetitions} and {iterations}; "
            "score the mean of the repetitions instead."
        )
    order = np.tile(np.arange(repetitions), (iterations, 1))
    return np.sort(keyed_rng("half_splits", seed).permuted(order, axis=1)[:, : repetitions // 2], axis=1)


def split_half_correlation(*, predicted: ArrayLike, observed: ArrayLike, second_half: ArrayLike) -> Ceilinged:
    """Pearson correlation over images at every channel and time, with noise ceilings, averaged over half splits.

    value: prediction with half 1; lower: half 2 with half 1; upper: all repetitions with half 1. The trap: half 1 is in
    both sides of the upper ceiling, which is therefore above what any prediction can reach. A prediction that does not
    vary scores 0.

    No half is ever averaged: every correlation of means is a quotient of sums over the repetitions' covariances.

    Shape:
        predicted: (n_images, n_channels, n_times); observed: (n_images, n_repetitions, n_channels, n_times);
        second_half: (iterations, size), repetitions of half 2. Returns three (n_channels, n_times).
    Raises:
        UsageError: Shapes disagree, a value is not finite, there are fewer than 3 images, or a cell never varies.

    References:
        Gifford et al. (2022), https://doi.org/10.1016/j.neuroimage.2022.119754, "Correlation".
    """
    synthetic, biological = _checked(predicted, observed)
    first, second = _weights(second_half, biological.shape[1])
    _, n_channels, n_times = synthetic.shape
    found = np.empty((3, n_channels * n_times))
    for cells, trials in _cells(biological):
        covariance = trials @ trials.transpose(0, 2, 1)
        guess = _centred(synthetic.reshape(len(synthetic), -1)[:, cells]).T
        with_first = first @ covariance
        variance_first = (with_first * first).sum(-1)
        variance_second = ((second @ covariance) * second).sum(-1)
        variance_all = covariance.mean((1, 2))[:, None]
        with_guess = (trials @ guess[:, :, None])[:, :, 0] @ first.T
        variance_guess = (guess * guess).sum(-1)[:, None]
        found[:, cells] = [
            _ratio(shared, np.sqrt(variance * variance_first)).mean(-1)
            for shared, variance in (
                (with_guess, variance_guess),
                ((with_first * second).sum(-1), variance_second),
                (with_first.mean(-1), variance_all),
            )
        ]
    return Ceilinged(*found.reshape(3, n_channels, n_times))


def pearson_r(*, predicted: ArrayLike, observed: ArrayLike, iterations: int = 100, seed: int = 0) -> Score:
    """Mean over channels and times of ``split_half_correlation``; ceilings in ``detail``.

    Time before the response is averaged in, so cut to the window in question first.
    """
    halves = _halves(observed, iterations, seed)
    return split_half_correlation(predicted=predicted, observed=observed, second_half=halves).mean()


def evoked_contrast_correlation(*, predicted: ArrayLike, observed: ArrayLike, second_half: ArrayLike) -> np.ndarray:
    """Pearson correlation over channels and times of what sets conditions apart, with noise ceilings, per half split.

    Compared are responses less their mean over conditions, each less its own mean over channels and times, all in
    one row: with two conditions this is the correlation of their evoked differences. value, lower, upper: as
    ``split_half_correlation``. The trap: it is about the shape of the difference, so one channel that is larger than
    all others decides it.

    Shape:
        predicted: (n_conditions, n_channels, n_times), n_conditions >= 2; observed: (n_conditions, n_repetitions,
        n_channels, n_times); second_half: (iterations, size). Returns (3, iterations).
    Raises:
        UsageError: As ``split_half_correlation``, with 2 conditions in place of 3 images.
    """
    synthetic, biological = _checked(predicted, observed, least=2)
    first, second = _weights(second_half, biological.shape[1])

    def contrast(responses: np.ndarray) -> np.ndarray:
        """(n_conditions, …, n_channels, n_times) → (…, n_conditions * n_channels * n_times)."""
        apart = _centred(_float(responses))
        apart = apart - apart.mean((-2, -1), keepdims=True)
        return np.asarray(np.moveaxis(apart, 0, -3).reshape(*apart.shape[1:-2], -1))

    guess, trials = contrast(synthetic), contrast(biological)
    covariance = trials @ trials.T
    with_first = first @ covariance
    variance = {"first": (with_first * first).sum(-1), "second": ((second @ covariance) * second).sum(-1)}
    shared = [first @ (trials @ guess), (with_first * second).sum(-1), with_first.mean(-1)]
    found = [guess @ guess, variance["second"], covariance.mean()]
    return np.stack([_ratio(s, np.sqrt(v * variance["first"])) for s, v in zip(shared, found, strict=True)])


def evoked_r(*, predicted: ArrayLike, observed: ArrayLike, iterations: int = 100, seed: int = 0) -> Score:
    """Mean over splits of ``evoked_contrast_correlation``; ceilings in ``detail``."""
    halves = _halves(observed, iterations, seed)
    found = evoked_contrast_correlation(predicted=predicted, observed=observed, second_half=halves)
    return Ceilinged(*found).mean()


def normalised_pearson_r(*, predicted: ArrayLike, observed: ArrayLike, iterations: int = 100, seed: int = 0) -> Score:
    """Mean of ``split_half_correlation`` divided by its lower noise ceiling, over the cells that are reliable.

    A cell is reliable if its lower ceiling is above the correlation that noise exceeds in any cell with probability
    0.05 (one-sided t test, Bonferroni over cells); elsewhere the quotient is noise. The trap: 1 is not the best value.
    Half 2 is noisy and a prediction need not be, so the true response scores 1 / √ceiling. That is undone in
    ``detail["attenuation_corrected"]``, the mean of r / √ceiling: what it scores as 1.

    Raises:
        UsageError: As ``split_half_correlation``, or no cell is reliable.

    References:
        Spearman (1904), https://doi.org/10.2307/1412159, for the correction of attenuation.
    """
    from scipy.stats import t

    halves = _halves(observed, iterations, seed)
    found = split_half_correlation(predicted=predicted, observed=observed, second_half=halves)
    freedom = len(np.asarray(observed)) - 2
    critical = t.isf(0.05 / found.lower.size, freedom)
    threshold = float(critical / np.sqrt(freedom + critical**2))
    reliable = found.lower > threshold
    if not reliable.any():
        raise UsageError(
            f"a normalised correlation needs a lower noise ceiling above {threshold:.3f} somewhere but the highest of "
            f"{reliable.size} cells is {found.lower.max():.3f}; average more repetitions or cut to the response."
        )
    r, lower = found.value[reliable], found.lower[reliable]
    return Score(
        float((r / lower).mean()),
        detail={
            "attenuation_corrected": float((r / np.sqrt(lower)).mean()),
            "lower": float(lower.mean()),
            "reliable_cells": float(reliable.sum()),
            "cells": float(reliable.size),
        },
    )


def correlation_with_mean(*, predicted: ArrayLike, observed: ArrayLike) -> np.ndarray:
    """(n_channels, n_times) Pearson correlation over images with the mean of all repetitions.

    Above the split-half value, since the mean of all repetitions has half the noise variance of the mean of half.

    Shape, raises: as ``split_half_correlation``, and one repetition is enough.

    References:
        Brain Encoding Response Generator, https://github.com/gifale95/BERG, card of eeg-things_eeg_2-vit_b_32.
    """
    synthetic, biological = _checked(predicted, observed)
    guess, response = _centred(synthetic), _centred(_mean(biological))
    return _ratio((guess * response).sum(0), np.sqrt((guess**2).sum(0) * (response**2).sum(0)))


def pearson_r_of_mean(*, predicted: ArrayLike, observed: ArrayLike) -> Score:
    """Mean over channels and times of ``correlation_with_mean``."""
    return Score(float(correlation_with_mean(predicted=predicted, observed=observed).mean()))


def r2(*, predicted: ArrayLike, observed: ArrayLike) -> Score:
    """Coefficient of determination of the mean of all repetitions, over images, averaged over channels and times.

    1 - Σ (y - ŷ)² / Σ (y - mean y)², so scale and offset of the prediction count, unlike in a correlation. The mean of
    the test responses scores 0, any other constant less; there is no lower bound.

    Shape, raises: as ``correlation_with_mean``.
    """
    synthetic, biological = _checked(predicted, observed)
    response = _mean(biological)
    unexplained = ((response - synthetic) ** 2).sum(0)
    return Score(float((1 - unexplained / (_centred(response) ** 2).sum(0)).mean()))


def correlation_rdm(patterns: np.ndarray) -> np.ndarray:
    """Correlation distance of every pair of images: 1 - Pearson over channels; 1 for a pattern that is flat.

    Shape:
        patterns: (..., n_images, n_channels); returns (..., n_images * (n_images - 1) / 2), pairs row by row.
    """
    flat = patterns - patterns[..., :1]
    flat = flat - flat.mean(-1, keepdims=True)
    flat = _ratio(flat, np.linalg.norm(flat, axis=-1, keepdims=True))
    upper = np.triu_indices(patterns.shape[-2], 1)
    return np.asarray((1 - flat @ flat.swapaxes(-1, -2))[..., upper[0], upper[1]])


def compare_rdms(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Spearman correlation of dissimilarities along the last axis; 0 where all of one are equal.

    Two measures of dissimilarity can be assumed to share the order of pairs, not their unit. Kendall's tau-a is needed
    to rank models that predict ties; correlation distances of responses have none.

    Shape:
        a, b: (..., n_pairs), broadcast against each other.

    References:
        Kriegeskorte et al. (2008), https://doi.org/10.3389/neuro.06.004.2008; Nili et al. (2014),
        https://doi.org/10.1371/journal.pcbi.1003553, on ties.

    Example:
        >>> round(float(compare_rdms([0.1, 0.5, 0.9], [1.0, 2.0, 20.0])), 9)
        1.0
    """
    return np.asarray((_ranked(a) * _ranked(b)).sum(-1))


def representational_similarity(*, predicted: ArrayLike, observed: ArrayLike, second_half: ArrayLike) -> Ceilinged:
    """Spearman correlation of the representational dissimilarities of images, at every time, with noise ceilings.

    Dissimilarity is 1 - Pearson over channels. value: prediction with half 1; lower: half 2 with half 1; upper: all
    repetitions with half 1; each averaged over half splits.

    Shape:
        As ``split_half_correlation``, at least 3 channels. Returns three (n_times,).
    Raises:
        UsageError: As ``split_half_correlation``, or fewer than 3 channels, over which correlations are 1 or -1.
    """
    synthetic, biological = _checked(predicted, observed)
    if synthetic.shape[1] < 3:
        raise UsageError(f"a pattern over channels needs at least 3 but got {synthetic.shape[1]}; add channels.")
    first, second = _weights(second_half, biological.shape[1])
    found = []
    for time, trials in _times(biological):
        half_one = _ranked(correlation_rdm(np.tensordot(first, trials, (1, 1))))
        others = (synthetic[:, :, time], np.tensordot(second, trials, (1, 1)), trials.mean(1))
        found.append([(_ranked(correlation_rdm(other)) * half_one).sum(-1).mean() for other in others])
    return Ceilinged(*np.transpose(found))


def rsa_over_time(*, features: ArrayLike, observed: ArrayLike) -> np.ndarray:
    """(n_times,) Spearman correlation of the dissimilarities of features with those of mean responses at every time.

    Dissimilarity is 1 - Pearson, over features on one side, over channels on the other: how an area of a network is
    compared with EEG.

    Shape:
        features: (n_images, n_features); observed: (n_images, n_repetitions, n_channels, n_times), 3 channels or more.
    Raises:
        UsageError: Shapes disagree, a value is not finite, or there are fewer than 3 images, features or channels.

    References:
        Kriegeskorte et al. (2008), https://doi.org/10.3389/neuro.06.004.2008; as in Lu, Wang, Golomb (2026).
    """
    (area,) = check_features(min_n=3, features=features)
    responses = _mean(np.asarray(observed))
    if len(area) != len(responses) or min(area.shape[1], responses.shape[1]) < 3:
        raise UsageError(
            f"every one of {len(responses)} images needs its features, 3 or more, and 3 channels, but there are "
            f"features of {len(area)}, {area.shape[1]} of each, and {responses.shape[1]} channels."
        )
    return compare_rdms(correlation_rdm(area), correlation_rdm(responses.transpose(2, 0, 1)))


def rsa_spearman(*, predicted: ArrayLike, observed: ArrayLike, iterations: int = 10, seed: int = 0) -> Score:
    """Mean over times of ``representational_similarity``; ceilings in ``detail``."""
    halves = _halves(observed, iterations, seed)
    return representational_similarity(predicted=predicted, observed=observed, second_half=halves).mean()


def pairwise_decoding_svc(*, predicted: ArrayLike, observed: ArrayLike, second_half: ArrayLike) -> Ceilinged:
    """Share of other images that a classifier of measured responses tells each predicted one from: the published form.

    For every half split, time and pair of images a linear support vector machine (C = 1) is fitted to pseudo-trials:
    means of 4 repetitions of half 1 in their order, over channels. It then classifies the two predicted responses;
    lower: those of half 2; upper: the means of all repetitions. 200 images, 100 times and 100 splits are 199 million
    fits, so the zoo scores by ``pairwise_decoding_lda``, and this is what that is held against on little data.

    Shape:
        As ``split_half_correlation``, half 1 of at least 4 repetitions. Returns three (n_images, n_times).
    Raises:
        UsageError: As ``split_half_correlation``, or half 1 is smaller than a pseudo-trial.

    References:
        Gifford et al. (2022), https://doi.org/10.1016/j.neuroimage.2022.119754, "Pairwise decoding".
    """
    from sklearn.svm import SVC

    synthetic, biological = _checked(predicted, observed)
    splits = np.asarray(second_half)
    n_images, repetitions, _, n_times = biological.shape
    n_pseudo = (repetitions - splits.shape[1]) // _PER_PSEUDO_TRIAL
    if n_pseudo < 1:
        raise UsageError(
            f"a pseudo-trial is the mean of {_PER_PSEUDO_TRIAL} repetitions but half 1 has "
            f"{repetitions - splits.shape[1]}; use pairwise_decoding_lda."
        )
    correct = np.zeros((3, n_images, n_times))
    for second in splits:
        first = np.setdiff1d(np.arange(repetitions), second)[: n_pseudo * _PER_PSEUDO_TRIAL]
        pseudo = _float(biological[:, first]).reshape(n_images, n_pseudo, _PER_PSEUDO_TRIAL, -1, n_times).mean(2)
        tested = (synthetic, _mean(biological[:, second]), _mean(biological))
        for time in range(n_times):
            for a, b in zip(*np.triu_indices(n_images, 1), strict=True):
                machine = SVC(kernel="linear", C=1.0)
                machine.fit(np.concatenate(pseudo[[a, b], :, :, time]), np.repeat([a, b], n_pseudo))
                for kind, responses in enumerate(tested):
                    correct[kind, [a, b], time] += machine.predict(responses[[a, b], :, time]) == [a, b]
    return Ceilinged(*correct / (len(splits) * (n_images - 1)))


def pairwise_decoding_lda(*, predicted: ArrayLike, observed: ArrayLike, second_half: ArrayLike) -> Ceilinged:
    """``pairwise_decoding_svc`` with linear discriminants: one system of equations per split and time, none per pair.

    Both forms draw a hyperplane between two images from half 1. Here its direction comes from the covariance of the
    noise pooled over all images, there from the few pseudo-trials of the pair. So ceilings are mostly higher here, but
    a prediction that errs where trials hardly vary is judged more harshly: the two are not comparable. Channels may be
    dependent, as under an average reference, since the pseudo-inverse is taken. Equal scores count one half.

    Shape:
        As ``split_half_correlation``. Returns three (n_images, n_times).
    Raises:
        UsageError: As ``split_half_correlation``, or half 1 leaves no more degrees of freedom than there are channels.

    References:
        Fisher (1936), https://doi.org/10.1111/j.1469-1809.1936.tb02137.x; protocol of Gifford et al. (2022).
    """
    synthetic, biological = _checked(predicted, observed)
    first, second = _weights(second_half, biological.shape[1])
    n_images, repetitions, n_channels, n_times = biological.shape
    freedom = n_images * (repetitions - np.shape(second_half)[1] - 1)
    if freedom <= n_channels:
        raise UsageError(
            f"a covariance of {n_channels} channels needs more than {n_channels} degrees of freedom but half 1 has "
            f"{freedom}; add repetitions or images."
        )
    correct = np.empty((3, n_images, n_times))
    for time, trials in _times(biological):
        whole = trials.mean(1)
        noise = (trials - whole[:, None]).transpose(1, 2, 0)
        moments = (noise @ noise.transpose(0, 2, 1)).reshape(repetitions, -1)
        means, others = np.tensordot(first, trials, (1, 1)), np.tensordot(second, trials, (1, 1))
        drift = means - whole
        pooled = (first @ moments).reshape(-1, n_channels, n_channels) - drift.transpose(0, 2, 1) @ drift
        weights = np.linalg.pinv(pooled, rcond=1e-10, hermitian=True) @ means.transpose(0, 2, 1)
        bias = (means * weights.transpose(0, 2, 1)).sum(-1) / 2
        for kind, responses in enumerate((synthetic[:, :, time], others, whole)):
            correct[kind, :, time] = _told_apart(np.broadcast_to(responses, means.shape), weights, bias)
    return Ceilinged(*correct)


def pairwise_lda(*, predicted: ArrayLike, observed: ArrayLike, iterations: int = 100, seed: int = 0) -> Score:
    """Mean over images and times of ``pairwise_decoding_lda``, kept per image; chance is 0.5."""
    halves = _halves(observed, iterations, seed)
    found = pairwise_decoding_lda(predicted=predicted, observed=observed, second_half=halves)
    per_unit = found.value.mean(axis=1)
    return Score(float(per_unit.mean()), per_unit, found.mean().detail)


def identification_accuracy(*, predicted: ArrayLike, observed: ArrayLike, k: int = 1) -> Score:
    """Share of images whose measured response correlates with its own prediction among the ``k`` best of all.

    Pearson over channels × times of the mean of all repetitions with the predictions of all ``n_images``. The published
    form first picks the cells that are predicted best in the training role (``best_cells``), and adds predictions for
    pictures that nobody was shown (``identification_growth``).

    Shape:
        predicted: (n_images, n_channels, n_times); observed: (n_images, n_repetitions, n_channels, n_times).
    Raises:
        UsageError: Shapes disagree, a value is not finite, a cell never varies, or there are no more than k images.

    References:
        Kay et al. (2008), https://doi.org/10.1038/nature06713; Gifford et al. (2022).
    """
    synthetic, biological = _checked(predicted, observed)
    rows = (x.reshape(len(x), -1) for x in (_mean(biological), synthetic))
    responses, candidates = (x - x.mean(axis=1, keepdims=True) for x in rows)  # the cosine of which is Pearson's r
    return top_k_accuracy(queries=responses, gallery=candidates, own=np.arange(len(synthetic)), k=k)


def best_cells(*, predicted: ArrayLike, observed: ArrayLike, count: int = 300) -> np.ndarray:
    """(count,) the channel × time cells, numbered row by row, in which predictions correlate best with responses.

    Meant for training-role arrays: choosing on the test role would be choosing the score.

    Shape, raises: as ``correlation_with_mean``, and ``count`` of 1 to n_channels * n_times.
    """
    found = correlation_with_mean(predicted=predicted, observed=observed).ravel()
    if not 1 <= count <= found.size:
        raise UsageError(f"count must be in 1..{found.size}, the cells there are, but is {count}; ask for fewer.")
    return np.sort(np.argsort(-found, kind="stable")[:count])


def identification_growth(
    *,
    predicted: np.ndarray,
    observed: np.ndarray,
    distractors: np.ndarray,
    sizes: ArrayLike,
    tolerances: ArrayLike = (1, 10),
    seed: int = 0,
) -> np.ndarray:
    """Identification accuracy as predictions of more and more other pictures join the candidates.

    The published form draws candidate sets 100 times. Of ``size`` distractors drawn from all of them the number that
    correlate better than the right one is hypergeometric, so the mean over all draws is computed instead. ``seed``
    orders candidates that correlate equally well, and nothing else.

    Shape:
        predicted, observed: (n_images, n_cells), response i belonging to prediction i; distractors: (m, n_cells);
        sizes: (s,) distractors drawn, each in 0..m; tolerances: (t,) ranks that count as identified, from 1.
        Returns (s, t) accuracies; a set of ``size`` has n_images + size candidates.
    Raises:
        UsageError: Shapes disagree, a value is not finite, or a size or tolerance is out of range.

    References:
        Gifford et al. (2022), https://doi.org/10.1016/j.neuroimage.2022.119754, "Zero-shot identification".
    """
    from scipy.stats import hypergeom

    n, m = len(check_features(min_n=2, predicted=predicted, observed=observed)[0]), len(distractors)
    drawn, ranks = np.asarray(sizes), np.asarray(tolerances)
    if len(observed) != n or drawn.min() < 0 or drawn.max() > m or ranks.min() < 1:
        raise UsageError(
            f"every one of {len(observed)} responses needs its prediction, sizes must be in 0..{m} and tolerances 1 or "
            f"more, but got {n} predictions, sizes {drawn.min()}..{drawn.max()} and tolerances from {ranks.min()}."
        )
    own = np.arange(n)
    bar = own_similarity(observed, predicted, own, centred=True)
    above, level = count_above(observed, predicted, bar, centred=True)
    more_above, more_level = count_above(observed, distractors, bar, centred=True)
    rng = keyed_rng("identification_growth", seed)
    luck = rng.random(n)  # where among its equals a right candidate stands
    ahead = above + rng.binomial(level - 1, luck)
    more_ahead = more_above + rng.binomial(more_level, luck)
    return np.array([[hypergeom.cdf(rank - 1 - ahead, m, more_ahead, size).mean() for rank in ranks] for size in drawn])


def extrapolated_candidates(
    *, candidates: ArrayLike, accuracy: ArrayLike, targets: ArrayLike = (0.1, 0.005)
) -> np.ndarray:
    """Candidate-set size at which accuracy would fall to each target, by the power law a · sizeᵇ fitted to it.

    Shape:
        candidates, accuracy: (s,), s >= 3; targets: (t,) in (0, 1); returns (t,).
    Raises:
        UsageError: Fewer than 3 sizes, or the accuracy does not fall, so that no size would do.

    References:
        Gifford et al. (2022), who fit from the 51st size on, where the law holds.

    Example:
        >>> extrapolated_candidates(candidates=[100, 400, 900], accuracy=[0.5, 0.25, 1 / 6], targets=[0.05]).round()
        array([10000.])
    """
    from scipy.optimize import curve_fit

    size, share = np.asarray(candidates, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if size.ndim != 1 or size.shape != share.shape or len(size) < 3 or not share[-1] < share[0]:
        raise UsageError(
            f"a power law needs accuracies that fall over at least 3 sizes but got {share.tolist()} for "
            f"{size.tolist()}; add sizes."
        )
    start = np.polyfit(np.log(size), np.log(np.clip(share, 1e-6, None)), 1)
    (a, b), _ = curve_fit(lambda x, a, b: a * x**b, size, share, (np.exp(start[1]), start[0]))
    return np.asarray((np.asarray(targets) / a) ** (1 / b))


def group_p_values(*, correlations: ArrayLike) -> np.ndarray:
    """Whether the mean correlation of subjects is above 0, as p per time: Fisher z, one-sided t test, Bonferroni.

    Shape:
        correlations: (n_subjects, n_times), n_subjects >= 2, in (-1, 1); returns (n_times,).
    Raises:
        UsageError: Fewer than two subjects, a value outside (-1, 1), where Fisher z is not defined, or a time at which
            all subjects are equal, where t is not.

    References:
        Fisher (1915), https://doi.org/10.2307/2331838; as in Gifford et al. (2022).
    """
    from scipy.stats import ttest_1samp

    (r,) = check_features(min_n=2, correlations=correlations)
    if (np.abs(r) >= 1).any() or (r == r[0]).all(0).any():
        raise UsageError(
            "a group test needs correlations within -1 and 1 that differ between subjects, but the largest is "
            f"{np.abs(r).max():.3f} and {int((r == r[0]).all(0).sum())} of {r.shape[1]} times do not; leave those out."
        )
    p = ttest_1samp(np.arctanh(r), 0, alternative="greater").pvalue
    return np.asarray(np.minimum(p * r.shape[1], 1.0))


def _told_apart(responses: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(n_images,) share of partners from which each response is told, averaged over splits.

    Shape:
        responses: (iterations, n_images, n_channels); weights: (iterations, n_channels, n_images); bias: (iterations,
        n_images). The discriminant of response i for image j is ``responses[i] @ weights[:, j] - bias[j]``.
    """
    n = responses.shape[1]
    total = np.zeros(n)
    for response, weight, shift in zip(responses, weights, bias, strict=True):
        scores = response @ weight - shift
        right = np.diagonal(scores)[:, None]
        total += (scores < right).sum(1) + ((scores == right).sum(1) - 1) / 2
    return np.asarray(total / (len(responses) * (n - 1)))


def _checked(predicted: ArrayLike, observed: ArrayLike, *, least: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Predictions as float64; responses as they are, since as float64 they may not fit into memory."""
    synthetic, biological = _float(predicted), np.asarray(observed)
    if biological.ndim != 4 or synthetic.shape != biological.shape[:1] + biological.shape[2:] or not synthetic.size:
        raise UsageError(
            "predicted must be (n_images, n_channels, n_times) and observed (n_images, n_repetitions, n_channels, "
            f"n_times) but they are {synthetic.shape} and {biological.shape}; pass responses to the same images."
        )
    if len(synthetic) < least:
        raise UsageError(
            f"responses must be to at least {least} images but are to {len(synthetic)}; score more together."
        )
    for name, array in (("predicted", synthetic), ("observed", biological)):
        if not np.isfinite(array).all():
            raise UsageError(f"{name} must be finite but holds NaN or infinity; find out which broke.")
    if flat := int((biological == biological[:1]).all((0, 1)).sum()):
        raise UsageError(
            f"observed must vary over images but {flat} of {synthetic[0].size} channel × time cells do not; leave out "
            "flat channels."
        )
    return synthetic, biological


def _halves(observed: ArrayLike, iterations: int, seed: int) -> np.ndarray:
    shape = np.shape(observed)
    if len(shape) != 4:
        raise UsageError(
            f"observed must be (n_images, n_repetitions, n_channels, n_times) but has shape {shape}; keep repetitions "
            "apart."
        )
    return half_splits(shape[1], iterations=iterations, seed=seed)


def _weights(second_half: ArrayLike, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    """(iterations, repetitions) weights whose product with repetitions is the mean of half 1, and of half 2."""
    chosen = np.asarray(second_half)
    inside = np.zeros((len(chosen), repetitions), bool)
    np.put_along_axis(inside, chosen, True, axis=1)
    first, second = _float(~inside), _float(inside)
    return first / first.sum(1, keepdims=True), second / second.sum(1, keepdims=True)


def _cells(biological: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of channel × time cells, each (n_cells, n_repetitions, n_images), centred over images."""
    n_images, repetitions, n_channels, n_times = biological.shape
    flat = biological.reshape(n_images, repetitions, n_channels * n_times)
    for start in range(0, flat.shape[2], _BLOCK):
        cells = slice(start, min(start + _BLOCK, flat.shape[2]))
        yield cells, np.ascontiguousarray(_centred(_float(flat[:, :, cells])).transpose(2, 1, 0))


def _times(biological: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each time, with its (n_images, n_repetitions, n_channels) responses."""
    return ((time, _float(biological[..., time])) for time in range(biological.shape[-1]))


def _float(array: ArrayLike) -> np.ndarray:
    return np.asarray(array, dtype=np.float64)


def _mean(biological: np.ndarray) -> np.ndarray:
    """Mean of the repetitions."""
    return np.asarray(biological.mean(axis=1, dtype=np.float64))


def _ranked(dissimilarities: ArrayLike) -> np.ndarray:
    """Ranks along the last axis with mean 0 and length 1; 0 where all are equal. Products of two are Spearman's rho."""
    from scipy.stats import rankdata

    values = np.round(_float(dissimilarities), 12)  # equal patterns differ by rounding
    order = np.argsort(values, axis=-1)
    if (np.diff(np.take_along_axis(values, order, -1)) == 0).any():
        ranks = rankdata(values, axis=-1)
    else:  # the same without ties, several times as fast
        ranks = np.empty(values.shape)
        np.put_along_axis(ranks, order, np.arange(1.0, values.shape[-1] + 1), -1)
    ranks -= ranks.mean(-1, keepdims=True)
    return _ratio(ranks, np.linalg.norm(ranks, axis=-1, keepdims=True))


def _centred(array: np.ndarray) -> np.ndarray:
    """Less its mean over the first axis; exactly 0 where it does not vary, which the mean alone does not ensure."""
    moved = array - array[:1]
    return np.asarray(moved - moved.mean(0))


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Quotient, and 0 where the divisor is: what does not vary correlates with nothing."""
    return np.asarray(
        np.divide(over, under, out=np.zeros(np.broadcast_shapes(over.shape, under.shape)), where=under > 0)
    )
