"""What is known about a dataset and what of it is here; imports nothing heavy where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import registry, store
from zoo.errors import IntegrityError

if TYPE_CHECKING:
    from zoo.datasets.base import EEGDataset
    from zoo.specs import DatasetCard


def describe(name: str) -> dict[str, Any]:
    """The card of a dataset, its splits, and the copy on this machine (null where there is none).

    Splits tell how many trials play each role if the copy here has them. A damaged copy is described by what is wrong
    with it. Nothing is prepared on the way.

    Raises:
        UnknownNameError: No such dataset; the message suggests one.
    """
    card = registry.datasets.get(name)
    splits: dict[str, dict[str, Any]] = {
        about.id: {**about.model_dump(exclude_none=True), "here": False} for about in card.splits
    }
    here = None
    if (store.cache_dir("datasets", card.id) / "dataset.json").exists():
        here = _describe_copy(card, splits)
    return {"card": card.model_dump(mode="json", exclude={"splits"}), "splits": list(splits.values()), "here": here}


def _describe_copy(card: DatasetCard, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    from zoo.datasets.base import EEGDataset

    folder = store.cache_dir("datasets", card.id)
    try:
        dataset = EEGDataset(folder, card)
        for split_id in dataset.split_ids:
            splits[split_id] = splits.get(split_id, {}) | _describe_split(dataset, split_id)
        return {
            "folder": str(folder),
            "from": dataset.source.get("hub", card.source if card.source == "generated" else "prepared from files"),
            "trials": len(dataset),
            "subjects": len(set(dataset.trials["subject"].tolist()) - {None}),
            "concepts": len(dataset.concepts),
            "pictures": len(dataset.stimuli),
            "pictures from": dataset.stimuli_source,
            "complete": dataset.complete,
            "bytes": sum(file.size for file in dataset.files.values()),
            "fingerprint": dataset.fingerprint,
            "eeg_sha256": dataset.eeg_sha256,
            "stimuli_sha256": dataset.stimuli_sha256,
            "report": list(dataset.report),
        }
    except IntegrityError as error:
        return {"folder": str(folder), "damaged": str(error)}


def _describe_split(dataset: EEGDataset, split_id: str) -> dict[str, Any]:
    split = dataset.split(split_id)
    roles = dataset.roles(split).tolist()
    return {
        "id": split_id,
        "protocol": split.protocol,
        "sha256": dataset.files[f"splits/{split_id}.json"].sha256,
        "note": split.description,
        "here": True,
        "unit": split.unit,
        "trials": {role: roles.count(role) for role in ("train", "val", "test", "unused") if role in roles},
    }
