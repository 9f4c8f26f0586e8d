"""Perturbations of environments, the same for training and for stress tests."""

from surefoot.perturbations.action import ActionDelay, ActionNoise, ActionRandom, ActionScale, StickyAction
from surefoot.perturbations.attacks import FGSM, MAD, PGD, Attack, CriticAttack, RandomAttack
from surefoot.perturbations.core import (
    REGISTRY,
    Cell,
    Composition,
    Perturbation,
    PerturbedEnv,
    register,
    unwrap,
)
from surefoot.perturbations.dynamics import Force, Parameters
from surefoot.perturbations.grammar import parse
from surefoot.perturbations.interval import Interval
from surefoot.perturbations.learned import ActionDirector, LearnedAttack, StateAdversary
from surefoot.perturbations.observation import ObservationDelay, ObservationDropout, ObservationNoise
from surefoot.perturbations.parameters import parameters, set_parameters
from surefoot.perturbations.reward import RewardFlip, RewardNoise, RewardShift

__all__ = [
    "FGSM",
    "MAD",
    "PGD",
    "REGISTRY",
    "ActionDelay",
    "ActionDirector",
    "ActionNoise",
    "ActionRandom",
    "ActionScale",
    "Attack",
    "Cell",
    "Composition",
    "CriticAttack",
    "Force",
    "Interval",
    "LearnedAttack",
    "ObservationDelay",
    "ObservationDropout",
    "ObservationNoise",
    "Parameters",
    "Perturbation",
    "PerturbedEnv",
    "RandomAttack",
    "RewardFlip",
    "RewardNoise",
    "RewardShift",
    "StateAdversary",
    "StickyAction",
    "parameters",
    "parse",
    "register",
    "set_parameters",
    "unwrap",
]
