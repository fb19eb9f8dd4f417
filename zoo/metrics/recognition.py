"""Which class? Probes of EEG features, a fine-tuned encoder, a judge of generated images; correctness per sample."""

from __future__ import annotations

import copy
import hashlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_features, check_labels, hits
from zoo.stats import keyed_rng

if TYPE_CHECKING:
    import torch
    from torch import nn

MAX_TRAIN = 30_000
"""Rows a support vector machine is fitted to at most, which in 40 classes takes well under a minute on one core."""
NEIGHBOURS = 5
KEPT_FITS = 8
_FITTED: dict[str, Any] = {}
"""Fitted probes by what they were fitted to, the latest last."""


def svm_accuracy(
    *,
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    seed: int = 45,
) -> Score:
    """Test accuracy of a linear support vector machine on standardised features.

    One class against the rest, C = 1, squared hinge, fitted in the primal, which converges where the dual runs out of
    iterations; of more than 30,000 training rows, 30,000 are drawn by ``seed``. Mean and deviation of the
    standardisation are the training role's.

    Shape:
        train_features: (n, n_features); test_features: (m, n_features); labels: (n,) and (m,) whole numbers.
    Raises:
        UsageError: Shapes disagree, a value is not finite, or a test class is in no training row.

    References:
        Cortes and Vapnik (1995); as "SVM" in Singh et al. (2024), https://arxiv.org/abs/2310.16532, table 2.
    """
    from sklearn.svm import LinearSVC

    x, y, test, true = _checked(train_features, train_labels, test_features, test_labels)
    if len(x) > MAX_TRAIN:
        kept = np.sort(keyed_rng("svm_accuracy", seed).choice(len(x), MAX_TRAIN, replace=False))
        x, y = x[kept], y[kept]
    probe = _standardised(LinearSVC(C=1.0, dual=False, max_iter=1000, random_state=seed))
    return hits(_fit(probe, x, y).predict(test) == true)


def knn_accuracy(
    *, train_features: ArrayLike, train_labels: ArrayLike, test_features: ArrayLike, test_labels: ArrayLike
) -> Score:
    """Test accuracy of a vote among the 5 nearest training samples (Euclidean, standardised); ties: the lower class.

    Shape, raises: as ``svm_accuracy``.

    References:
        Cover and Hart (1967), https://doi.org/10.1109/TIT.1967.1053964.
    """
    from sklearn.neighbors import KNeighborsClassifier

    x, y, test, true = _checked(train_features, train_labels, test_features, test_labels)
    voters = KNeighborsClassifier(min(NEIGHBOURS, len(x)), algorithm="brute")
    return hits(_fit(_standardised(voters), x, y).predict(test) == true)


def logistic_accuracy(
    *, train_features: ArrayLike, train_labels: ArrayLike, test_features: ArrayLike, test_labels: ArrayLike
) -> Score:
    """Test accuracy of multinomial logistic regression (L2, C = 1) on standardised features: the linear probe.

    Shape, raises: as ``svm_accuracy``.

    References:
        Alain and Bengio (2016), https://arxiv.org/abs/1610.01644.
    """
    x, y, test, true = _checked(train_features, train_labels, test_features, test_labels)
    return hits(_fit(_standardised(_logistic()), x, y).predict(test) == true)


def classifier_accuracy(*, test_logits: ArrayLike, test_labels: ArrayLike, n_classes: int) -> Score:
    """Share of test trials whose largest logit, of the model's own head, is that of their class.

    The first of equal logits counts, so equal logits score chance; values that are not finite are refused, not ranked.

    Shape:
        test_logits: (n, n_classes), in the order of the dataset's concepts; test_labels: (n,) whole numbers.
    Raises:
        UsageError: Shapes disagree, a value is not finite, a label is out of range, or the head knows another number of
            classes than the dataset has.
    """
    (logits,) = check_features(test_logits=test_logits)
    labels = check_labels("test_labels", test_labels, len(logits), n_classes)
    if logits.shape[1] != n_classes:
        raise UsageError(
            f"a classifier must know the {n_classes} classes of the dataset but knows {logits.shape[1]}; "
            "train it on this dataset."
        )
    return hits(logits.argmax(axis=1) == labels)


def judge_accuracy(
    *,
    generated: ArrayLike,
    labels: ArrayLike,
    known: ArrayLike,
    known_labels: ArrayLike,
    reference: ArrayLike,
    reference_labels: ArrayLike,
) -> Score:
    """Share of generated images that a judge assigns to the class they were conditioned on.

    The judge is logistic regression (L2, C = 1) on features of *real training-role* pictures, centred and divided by
    one deviation for all of them (root mean variance). With one each, what hardly varies among real pictures, such as
    an empty border, would count most, and a little noise there decide. Judge and features are in no training loss, so
    no model can have learned to please it. ``detail["real_accuracy"]`` is how often it is right about real test-role
    pictures: what a perfect generator would reach; a score above means exaggerated prototypes.

    Shape:
        generated: (n, n_features), labels: (n,) conditioning classes; known, reference: features of real pictures of
            the training and the test role, with their labels.
    Raises:
        UsageError: Shapes disagree, a value is not finite, or a class is in no training picture.

    References:
        Classification accuracy score: Ravuri and Vinyals (2019), https://arxiv.org/abs/1905.10887, turned around;
        Shmelkov et al. (2018), https://arxiv.org/abs/1807.09499, "GAN-test".
    """
    x, y, made, asked = _checked(known, known_labels, generated, labels, ("known", "generated"))
    _, _, real, true = _checked(known, known_labels, reference, reference_labels, ("known", "reference"))
    mean, deviation = x.mean(axis=0), float(np.sqrt(x.var(axis=0).mean())) or 1.0
    x, made, real = ((features - mean) / deviation for features in (x, made, real))
    judge = _fit(_logistic(), x, y)
    return hits(judge.predict(made) == asked, real_accuracy=float((judge.predict(real) == true).mean()))


def finetuned_accuracy(
    model: nn.Module,
    *,
    train_eeg: np.ndarray,
    train_labels: ArrayLike,
    val_eeg: np.ndarray,
    val_labels: ArrayLike,
    test_eeg: np.ndarray,
    test_labels: ArrayLike,
    n_classes: int,
    seed: int = 0,
    epochs: int = 10,
    max_steps: int = 1000,
    patience: int = 3,
    batch_size: int = 64,
    lr: float = 1e-3,
) -> Score:
    """Test accuracy of a copy of the encoder trained on with a linear head (Adam, cross-entropy).

    The epoch with the best validation accuracy counts, the earlier one of equals; training stops after ``patience``
    epochs without a better one, or at ``max_steps``. Without validation trials the last epoch counts: nothing is ever
    selected on the test role, unlike the published "fine-tuned accuracy". ``model`` itself stays as it is. On a CPU the
    seed alone decides the value.

    Shape:
        *_eeg: (n_trials, n_channels, n_times) as ``model.encode`` takes it; *_labels: (n_trials,) in 0..n_classes-1.
    Raises:
        UsageError: Shapes disagree, a value is not finite, labels are out of range, train or test is empty, or a test
            class is in no training trial.

    References:
        Singh et al. (2024), https://arxiv.org/abs/2310.16532, table 2, "Accuracy".
    """
    import torch

    from zoo.gradients import right_gradients

    train = _trials("train", train_eeg, train_labels, n_classes, min_n=2)
    val = _trials("val", val_eeg, val_labels, n_classes, min_n=0)
    test = _trials("test", test_eeg, test_labels, n_classes, min_n=1)
    _require_seen(train[1], test[1])
    device = next(iter((*model.parameters(), *model.buffers())), torch.zeros(())).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), right_gradients(device.type):  # dropout draws from the global generator
        torch.manual_seed(seed)
        net = _with_head(model, train[0], n_classes, device)
        optimizer = torch.optim.Adam(net.parameters(), lr)
        best, best_epoch, steps, epoch, kept = -1.0, 0, 0, 0, copy.deepcopy(net.state_dict())
        while epoch < epochs and steps < max_steps and epoch - best_epoch < patience:
            order = keyed_rng("finetuned_accuracy", seed, epoch).permutation(len(train[1]))
            steps += _train_epoch(net, optimizer, train, order, batch_size, max_steps - steps)
            epoch += 1
            reached = float(_correct(net, *val).mean()) if len(val[1]) else float(epoch)
            if reached > best:
                best, best_epoch, kept = reached, epoch, copy.deepcopy(net.state_dict())
        net.load_state_dict(kept)
        detail = {"epoch": float(best_epoch), "steps": float(steps)} | ({"val_accuracy": best} if len(val[1]) else {})
        return hits(_correct(net, *test), **detail)


def _checked(
    train: ArrayLike,
    train_labels: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    names: tuple[str, str] = ("train", "test"),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test features and labels that a classifier can be fitted to and scored on."""
    features: dict[str, Any] = {f"{names[0]}_features": train, f"{names[1]}_features": test}
    x, seen = check_features(**features)
    y = check_labels(f"{names[0]}_labels", train_labels, len(x))
    true = check_labels(f"{names[1]}_labels", test_labels, len(seen))
    if len(np.unique(y)) < 2:
        raise UsageError(f"{names[0]}_labels must hold at least 2 classes but hold only {y[0]}; choose another split.")
    _require_seen(y, true, names)
    return x, y, seen, true


def _require_seen(labels: np.ndarray, asked: np.ndarray, names: tuple[str, str] = ("train", "test")) -> None:
    if len(unknown := np.setdiff1d(asked, labels)):
        raise UsageError(
            f"every class of {names[1]}_labels must be among {names[0]}_labels but {unknown.tolist()} are not; "
            "a classifier cannot name a class it never saw."
        )


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=1000)


def _standardised(classifier: Any) -> Any:
    """The classifier of features that have mean 0 and deviation 1 in what it is fitted to."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), classifier)


def _fit(classifier: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """A fitted probe; where its iterations are not enough, what they reach counts: so it is defined.

    Controls differ in what is asked, not in what was learnt, so the latest fits are kept.
    """
    from sklearn.exceptions import ConvergenceWarning

    asked = hashlib.sha256(repr((classifier, x.shape, x.dtype, y.dtype)).encode())
    for array in (x, y):
        asked.update(np.ascontiguousarray(array).data)
    key = asked.hexdigest()
    if key not in _FITTED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            _FITTED[key] = classifier.fit(x, y)
        while len(_FITTED) > KEPT_FITS:
            del _FITTED[next(iter(_FITTED))]
    return _FITTED[key]


def _trials(
    name: str, eeg: np.ndarray, labels: ArrayLike, n_classes: int, *, min_n: int
) -> tuple[np.ndarray, np.ndarray]:
    if eeg.ndim != 3 or len(eeg) < min_n:
        raise UsageError(
            f"{name}_eeg must be (n_trials, n_channels, n_times) with at least {min_n} trials but has shape "
            f"{eeg.shape}; choose another split."
        )
    if not np.isfinite(eeg).all():
        raise UsageError(f"{name}_eeg must be finite but holds NaN or infinity; prepare the dataset again.")
    return eeg, check_labels(f"{name}_labels", labels, len(eeg), n_classes)


def _with_head(model: nn.Module, eeg: np.ndarray, n_classes: int, device: torch.device) -> nn.ModuleDict:
    """A trainable copy of the model, and a linear head as wide as its features."""
    import torch
    from torch import nn

    encoder = copy.deepcopy(model).requires_grad_(True)
    net = nn.ModuleDict({"encoder": encoder}).eval()
    with torch.no_grad():
        width = encoder.encode(_tensor(eeg[:2], device)).shape[1]  # type: ignore[operator]
    net["head"] = nn.Linear(width, n_classes).to(device)
    return net


def _train_epoch(
    net: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    train: tuple[np.ndarray, np.ndarray],
    order: np.ndarray,
    batch_size: int,
    steps_left: int,
) -> int:
    """One pass, without a last batch of one (batch norms need two), cut short at ``steps_left``; returns its steps."""
    import torch.nn.functional as F

    net.train()
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches = [batch for batch in batches if len(batch) > 1][:steps_left]
    for batch in batches:
        logits = _logits(net, train[0][batch])
        loss = F.cross_entropy(logits, _tensor(train[1][batch], logits.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return len(batches)


def _correct(net: nn.ModuleDict, eeg: np.ndarray, labels: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """(n,) bool: the highest logit is the label's; the first of equals counts, so equal logits score chance."""
    import torch

    net.eval()
    with torch.no_grad():
        found = [_logits(net, eeg[i : i + batch_size]).argmax(1).cpu().numpy() for i in range(0, len(eeg), batch_size)]
    return np.asarray(np.concatenate(found) == labels)


def _logits(net: nn.ModuleDict, eeg: np.ndarray) -> torch.Tensor:
    head = net["head"]
    features = net["encoder"].encode(_tensor(eeg, head.weight.device))  # type: ignore[operator, arg-type]
    logits: torch.Tensor = head(features)
    return logits


def _tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(array)).to(device)
