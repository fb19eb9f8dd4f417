"""Representational similarity with the dissimilarities of 92 objects in human and monkey IT, beside rsatoolbox."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import squareform

from zoo.errors import UsageError
from zoo.metrics.encoding import compare_rdms, correlation_rdm, rsa_over_time


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, np.ndarray]:
    """Dissimilarities of all pairs, (4186,): of four people in two sessions, and mean ones of people and of monkeys."""
    import scipy.io

    folder = shared / "data/licensed/rsa_92_images"
    people = scipy.io.loadmat(folder / "92_brainRDMs.mat")["RDMs"][0].ravel()
    species = scipy.io.loadmat(folder / "Kriegeskorte_Neuron2008_supplementalData.mat")["RDMs_mIT_hIT_fig1"][0]
    found = {str(entry["name"][0]): squareform(entry["RDM"], checks=False) for entry in people}
    return found | {str(entry["name"][0]): entry["RDM"][0] for entry in species}


def test_relations_of_the_published_matrices_are_those_of_rsatoolbox(published: dict[str, np.ndarray]) -> None:
    from rsatoolbox.rdm import RDMs, compare

    matrices = np.array(list(published.values()))
    assert matrices.shape == (10, 92 * 91 // 2)
    ours = compare_rdms(matrices[:, None], matrices)
    theirs = compare(RDMs(matrices), RDMs(matrices), method="spearman")
    assert np.abs(ours - theirs).max() < 1e-8
    assert np.allclose(np.diagonal(ours), 1)


def test_people_resemble_themselves_each_other_and_monkeys_in_this_order(published: dict[str, np.ndarray]) -> None:
    names = list(published)
    matrices = np.array(list(published.values()))
    found = compare_rdms(matrices[:, None], matrices)
    person = np.array([name.split("|")[1] if "|" in name else name for name in names[:8]])
    alike = person[:, None] == person
    apart = np.triu(np.ones((8, 8), bool), 1)
    within, between = found[:8, :8][alike & apart], found[:8, :8][~alike & apart]
    assert (len(within), len(between)) == (4, 24)
    assert within.mean() > between.mean() > 0.1
    monkeys, people = names.index("mIT_674neurons"), names.index("hITvisStim_316vx")
    assert found[monkeys, people] == pytest.approx(0.438924, abs=1e-6)  # rsatoolbox 0.3.2 gives this, too
    linear = np.corrcoef(matrices[[monkeys, people]])[0, 1]
    assert linear == pytest.approx(0.49, abs=0.005)  # Kriegeskorte et al. (2008)


def test_dissimilarities_are_those_of_rsatoolbox() -> None:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    patterns = np.random.default_rng(0).standard_normal((12, 7))
    theirs = calc_rdm(Dataset(patterns), method="correlation").dissimilarities[0]
    assert np.abs(correlation_rdm(patterns) - theirs).max() < 1e-12


def test_features_that_order_pictures_as_eeg_does_are_found_at_that_time() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 50))
    observed = rng.standard_normal((20, 4, 50, 6))
    observed[..., 2] = features[:, None] * 3 - 1  # the same up to scale and offset
    found = rsa_over_time(features=features, observed=observed)
    assert found[2] == pytest.approx(1)
    assert np.abs(np.delete(found, 2)).max() < 0.3
    assert rsa_over_time(features=-features, observed=observed)[2] == pytest.approx(1)


def test_what_cannot_be_compared_is_refused() -> None:
    observed = np.random.default_rng(0).standard_normal((5, 2, 4, 3))
    with pytest.raises(UsageError) as refused:
        rsa_over_time(features=observed[:4, 0, :, 0], observed=observed)
    assert str(refused.value) == (
        "every one of 5 images needs its features, 3 or more, and 3 channels, but there are features of 4, 4 of each, "
        "and 4 channels."
    )
