"""The effect of a sweep of perturbations: its nominal point, and cells that give identical results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import gymnasium
import numpy as np

from surefoot.perturbations import Attack, Composition, Driven, Parameters, Perturbation, parameters
from surefoot.perturbations.core import Graded
from surefoot.perturbations.driven import undrawn

_ROUNDING = 1e-9  # relative: returns that differ by less are the same
_UNITS = {"mass": "kg", "friction": "absolute coefficient", "force_x": "N", "force_y": "N", "force_z": "N"}


def axis_facts(attack: Perturbation, env: gymnasium.Env) -> list[tuple[float | None, str]]:
    """The nominal value (`None` if not known) and the unit of every dimension of the attack's grid, in its order.

    Parameters are absolute values, not multiples of the nominal one; units are known for the robust MuJoCo tasks.
    """
    match attack:
        case Composition():
            return [fact for part in attack.parts for fact in axis_facts(part, env)]
        case Driven():
            return [(None, "")] if undrawn(attack.inner) else axis_facts(attack.inner, env)
        case Parameters():
            now, known = parameters(env), _UNITS if env.has_wrapper_attr("set_params") else {}
            return [
                (now.get(name), next((unit for end, unit in known.items() if name.endswith(end)), "absolute value"))
                for name, _ in attack.values
            ]
        case Attack():
            known = {
                "normalized": "standard deviations of the policy's normaliser",
                "raw": "the observation's own units",
            }
            return [(attack.neutral, f"{attack.law} radius in {known.get(attack.unit, f'units of {attack.unit}')}")]
        case Graded():
            (strength,) = (f for f in dataclasses.fields(attack) if f.name == "strength")
            return [(attack.neutral, strength.metadata.get("help", ""))]
    return [(None, "")] * len(attack.grid(2)[0].coordinates)


def identical_cells(
    axes: Sequence[str], coordinates: np.ndarray, returns: np.ndarray, nominal: np.ndarray
) -> list[str]:
    """Notes on cells with the same return in every episode, so that they are not mistaken for robustness.

    `coordinates [cells, dimensions]`, `returns [cells, episodes]`, `nominal [episodes]`.
    """
    unmoved = _same(returns, nominal).all(axis=1)
    cap = "or the return cannot show it because it is at its limit in every episode"
    if unmoved.all():
        return [
            "The perturbation had no effect: every episode in every cell has exactly its unperturbed return."
            f" Either it does not reach the values that the environment uses, {cap}."
        ]
    notes = []
    for place, axis in enumerate(axes):
        values = np.unique(coordinates[:, place])
        if len(values) < 2:
            continue
        groups = _groups(values, place, coordinates, returns)
        if len(groups) == 1:
            notes.append(
                f"{axis} changed nothing: all its {len(values)} values give identical returns in every episode. Either"
                f" it has no effect, {cap}."
            )
        for group in (group for group in groups if 1 < len(group) < len(values)):
            notes.append(
                f"{axis}: {len(group)} of {len(values)} values ({', '.join(f'{v:.4g}' for v in group)}) give identical"
                f" returns in every episode: they are one experiment, which the mean and the cvar count"
                f" {len(group)} times."
            )
        if "friction" in axis and len(groups) < len(values):
            notes.append(
                f"{axis}: MuJoCo takes the larger friction of two touching bodies, so values below the other"
                " body's change nothing."
            )
    if unmoved.sum() > 1:
        notes.append(f"{unmoved.sum()} of {len(returns)} cells have the unperturbed return in every episode.")
    return notes


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.isclose(a, b, rtol=_ROUNDING, atol=0)


def _groups(values: np.ndarray, place: int, coordinates: np.ndarray, returns: np.ndarray) -> list[list[float]]:
    """The values of one dimension, grouped if cells that differ only in it have the same returns."""
    others = np.delete(coordinates, place, axis=1)
    blocks: list[tuple[np.ndarray, np.ndarray]] = []
    groups: list[list[float]] = []
    for value in values:
        cells = np.flatnonzero(coordinates[:, place] == value)
        order = cells[np.lexsort(others[cells].T)] if others.shape[1] else cells
        block = others[order], returns[order]
        for known, group in zip(blocks, groups):
            if known[0].shape == block[0].shape and (known[0] == block[0]).all() and _same(known[1], block[1]).all():
                group.append(float(value))
                break
        else:
            blocks.append(block)
            groups.append([float(value)])
    return groups
