"""Perturbations of environments, the same for training and for stress tests."""

from surefoot.perturbations.action import (
    ActionDelay,
    ActionMix,
    ActionNoise,
    ActionRandom,
    ActionScale,
    StickyAction,
)
from surefoot.perturbations.attacks import FGSM, MAD, PGD, Attack, CriticAttack
from surefoot.perturbations.black_box import RandomAttack, SearchAttack
from surefoot.perturbations.core import (
    REGISTRY,
    Cell,
    Composition,
    Control,
    Perturbation,
    PerturbedEnv,
    register,
    unwrap,
)
from surefoot.perturbations.drift import ActionDrift, ObservationDrift
from surefoot.perturbations.driven import Driven
from surefoot.perturbations.dynamics import Force, Parameters
from surefoot.perturbations.grammar import parse, several
from surefoot.perturbations.inputs import InputAttack, InputPGD, InputSearch
from surefoot.perturbations.interval import Interval
from surefoot.perturbations.labels import GroupShift, LabelFlip
from surefoot.perturbations.learned import ActionDirector, LearnedAttack, StateAdversary
from surefoot.perturbations.observation import (
    FrameDrop,
    ObservationDelay,
    ObservationDropout,
    ObservationNoise,
    RelativeNoise,
)
from surefoot.perturbations.parameters import parameters, set_parameters
from surefoot.perturbations.reward import RewardFlip, RewardNoise, RewardShift
from surefoot.perturbations.timing import (
    ActionDelayJitter,
    FrameRepeat,
    ObservationDelayJitter,
    Speed,
    SpeedJitter,
    SpeedSpike,
)

__all__ = [
    "ActionDelay",
    "ActionDelayJitter",
    "ActionDirector",
    "ActionDrift",
    "ActionMix",
    "ActionNoise",
    "ActionRandom",
    "ActionScale",
    "Attack",
    "Cell",
    "Composition",
    "Control",
    "CriticAttack",
    "Driven",
    "FGSM",
    "Force",
    "FrameDrop",
    "FrameRepeat",
    "GroupShift",
    "InputAttack",
    "InputPGD",
    "InputSearch",
    "Interval",
    "LabelFlip",
    "LearnedAttack",
    "MAD",
    "ObservationDelay",
    "ObservationDelayJitter",
    "ObservationDrift",
    "ObservationDropout",
    "ObservationNoise",
    "PGD",
    "Parameters",
    "Perturbation",
    "PerturbedEnv",
    "REGISTRY",
    "RandomAttack",
    "RelativeNoise",
    "RewardFlip",
    "RewardNoise",
    "RewardShift",
    "SearchAttack",
    "Speed",
    "SpeedJitter",
    "SpeedSpike",
    "StateAdversary",
    "StickyAction",
    "parameters",
    "parse",
    "register",
    "set_parameters",
    "several",
    "unwrap",
]
