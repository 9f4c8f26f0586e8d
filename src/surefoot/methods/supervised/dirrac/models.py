"""What is known of tomorrow's classifier: the mean and covariance of the parameters of some linear ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError


class Moments(NamedTuple):
    """K groups of classifiers: means `[k, d + 1]`, covariances `[k, d + 1, d + 1]`, shares `[k]`, and the features."""

    means: Tensor
    covariances: Tensor
    shares: Tensor
    features: tuple[str, ...]


def parameters(models: Any) -> np.ndarray:
    """The coefficients and the intercept of every classifier, `[m, d + 1]`.

    Raises:
        UsageError: there is none, one is not linear or has several scores, or they differ in their features.
    """
    if isinstance(models, (np.ndarray, Tensor)):
        found = np.asarray(models, dtype=np.float64)
        if found.ndim != 2 or found.shape[1] < 2 or not len(found):
            raise UsageError(f"models has the shape {list(found.shape)}; give [models, features + 1], intercepts last.")
    else:
        given = list(models) if isinstance(models, Sequence) else [models]
        if not given:
            raise UsageError("models is empty; give the classifiers that were fitted to the data and to shifts of it.")
        rows = [_row(model, place) for place, model in enumerate(given)]
        if len(sizes := {len(row) - 1 for row in rows}) > 1:
            raise UsageError(f"models differ in their number of features, {sorted(sizes)}; all must have the same.")
        found = np.stack(rows)
    if not np.isfinite(found).all():
        place = int(np.argwhere(~np.isfinite(found))[0, 0])
        raise UsageError(f"models[{place}] has parameters that are not finite; leave it out or fit it again.")
    return found


def _row(model: Any, place: int) -> np.ndarray:
    """The parameters of one classifier: an own linear model, or one of scikit-learn."""
    coef = getattr(model, "coef", None) if getattr(model, "coef_", None) is None else model.coef_
    intercept = getattr(model, "intercept", None) if getattr(model, "coef_", None) is None else model.intercept_
    coef = None if coef is None or intercept is None else np.atleast_2d(np.asarray(coef, dtype=np.float64))
    classes = getattr(model, "classes_", getattr(model, "classes", None))
    if coef is None or coef.shape[0] != 1 or classes is None:
        what = "has no coefficients" if coef is None else f"has {len(coef)} scores"
        what = "predicts numbers, not classes" if coef is not None and len(coef) == 1 else what
        raise UsageError(
            f"models[{place}] ({type(model).__name__}) {what}; give fitted linear classifiers of two classes, such as "
            "LogisticRegression, without a pipeline around them, or an array [models, features + 1]."
        )
    return np.append(coef[0], np.ravel(np.asarray(intercept, dtype=np.float64))[:1])


def moments(models: Any, groups: Any, variance: float, features: Sequence[str] | None) -> Moments:
    """The moments of every group of classifiers.

    Raises:
        UsageError: as `parameters`; a group has one classifier and no prior variance; names do not fit.
    """
    found = parameters(models)
    labels = np.zeros(len(found), dtype=int) if groups is None else np.asarray(groups)
    if labels.shape != (len(found),):
        raise UsageError(f"groups has the shape {list(labels.shape)}; give a label for each of {len(found)} models.")
    known, counts = np.unique(labels, return_counts=True)
    if variance == 0 and counts.min() < 2:
        alone = "" if groups is None else f" in the group {known[counts.argmin()].item()!r}"
        raise UsageError(
            f"variance=0 is not allowed with one model{alone}: it has no covariance. Give more models, or what you "
            "expect of them, such as variance=0.1."
        )
    size = found.shape[1]
    means = np.stack([found[labels == one].mean(0) for one in known])
    spread = [np.cov(found[labels == one].T) if (labels == one).sum() > 1 else np.zeros((size, size)) for one in known]
    covariances = np.stack(spread) + variance * np.eye(size)
    names = _names(models, features, size - 1)
    shares = torch.as_tensor(counts / counts.sum())
    return Moments(torch.as_tensor(means), torch.as_tensor(covariances), shares, names)


def _names(models: Any, features: Sequence[str] | None, size: int) -> tuple[str, ...]:
    """The names of the features: as given, as the first model has them, or x0, x1, …"""
    first = models if isinstance(models, (np.ndarray, Tensor)) or not isinstance(models, Sequence) else models[0]
    told = getattr(first, "feature_names_in_", None) if features is None else features
    names = tuple(f"x{place}" for place in range(size)) if told is None else tuple(map(str, told))
    if len(names) != size:
        raise UsageError(f"features has {len(names)} names; the models have {size} features.")
    return names
