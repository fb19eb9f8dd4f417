from __future__ import annotations

import re

import pytest

from zoo.registry import PACKAGE, datasets, models, read_yaml
from zoo.specs import ModelCard

CARDS = [ModelCard.model_validate(entry) for entry in read_yaml(PACKAGE / "models" / "announced.yaml")]
NAMES = [
    "dreamdiffusion",
    "mind-vis",
    "brain-supervised-editing",
]


def test_every_announced_system_has_its_card_and_no_code() -> None:
    assert [card.id for card in CARDS] == NAMES
    assert [card.id for card in CARDS if card.builder is not None or card.weights] == []


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_an_announced_card_is_the_one_its_name_resolves_to(card: ModelCard) -> None:
    assert models.get(card.id) == card


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_an_announced_card_speaks_of_datasets_and_sources_that_exist(card: ModelCard) -> None:
    known = set(datasets.names())
    assert set(card.trained_on) <= known
    assert {claim.dataset.partition("/")[0] for claim in card.claims} <= known
    assert re.search(r"https://|\b(19|20)\d\d\b", card.paper), "a link or a year"


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_claimed_shares_are_fractions(card: ModelCard) -> None:
    shares = [claim for claim in card.claims if re.search(r"accuracy|top\d", claim.metric)]
    assert all(0 < claim.value < 1 for claim in shares)


def test_what_others_measured_is_not_said_to_be_seen() -> None:
    assert all(
        claim.source.startswith(("paper", "abstract")) == (claim.status == "seen") for c in CARDS for claim in c.claims
    )
