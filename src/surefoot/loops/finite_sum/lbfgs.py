"""L-BFGS with a line search for the weak Wolfe conditions, one iteration at a time, so that its state can be saved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
State = dict[str, Array]
Function = Callable[[Array], tuple[float, Array]]  # W -> (value, gradient)
MEMORY = 10  # pairs of steps and changes of the gradient
SUFFICIENT, CURVATURE, TRIALS = 1e-4, 0.9, 40  # of the line search
ROUNDING = 1e-15  # of a value, relative to it


def start(W: Array, function: Function) -> State:
    """The state at some W, without any memory."""
    value, gradient = function(W)
    memory = {name: np.zeros((MEMORY, W.size)) for name in ("steps", "changes")}
    return {
        "W": W,
        "value": np.array([value]),
        "gradient": gradient,
        **memory,
        "kept": np.zeros(1),
        "done": np.zeros(1),
    }


def iteration(state: State, function: Function) -> State:
    """One step, with the newest pair last in the memory. Where no step lowers the value, the memory is emptied, and if
    it was empty, W is final.

    The line search is Lewis and Overton's bisection, which also ends where the function has kinks.
    """
    if state["done"][0]:
        return state
    W, value, gradient, kept = state["W"], float(state["value"][0]), state["gradient"], int(state["kept"][0])
    direction = -_scaled(gradient.ravel(), state["steps"][MEMORY - kept :], state["changes"][MEMORY - kept :])
    if kept == 0 and (size := float(np.abs(direction).max())) > 0:
        direction = direction / size
    slope = float(direction @ gradient.ravel())
    found = _searched(W, value, direction.reshape(W.shape), slope, function)
    if found is None:
        return {**state, "kept": np.zeros(1), "done": np.array([float(kept == 0)])}
    moved, after, turned = found
    now = {**state, "W": moved, "value": np.array([after]), "gradient": turned}
    step, change = (moved - W).ravel(), (turned - gradient).ravel()
    if step @ change <= 1e-16 * (change @ change):
        return now
    newest = {name: np.vstack([state[name][1:], x]) for name, x in (("steps", step), ("changes", change))}
    return {**now, **newest, "kept": np.array([min(kept + 1.0, MEMORY)])}


def _searched(
    W: Array, value: float, direction: Array, slope: float, function: Function
) -> tuple[Array, float, Array] | None:
    """A point along a direction, with its value and gradient, that is lower; None if rounding hides any."""
    low, high, t = 0.0, np.inf, 1.0
    lower = None
    for _ in range(TRIALS):
        if not t * -slope > ROUNDING * abs(value):
            break
        moved = W + t * direction
        after, turned = function(moved)
        if not after <= value + SUFFICIENT * t * slope:
            high = t
        else:
            lower = (moved, after, turned) if after < value else lower
            if float(np.sum(turned * direction)) >= CURVATURE * slope:
                break
            low = t
        t = 0.5 * (low + high) if np.isfinite(high) else 2 * t
    return lower


def _scaled(gradient: Array, steps: Array, changes: Array) -> Array:
    """The inverse Hessian that the pairs suggest, times the gradient: the two loops of Nocedal."""
    found, coefficients = gradient.copy(), []
    for s, y in zip(steps[::-1], changes[::-1]):
        coefficients.append(a := (s @ found) / (s @ y))
        found -= a * y
    if len(steps):
        found *= (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, a in zip(steps, changes, coefficients[::-1]):
        found += (a - (y @ found) / (s @ y)) * s
    return found
