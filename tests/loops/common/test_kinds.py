"""The kinds of loops: each is where it is said to be, and a method's kind decides what its run learns in."""

from __future__ import annotations

import pytest

from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.loops.common.kinds import LOOPS, Loop, loop


@pytest.mark.parametrize("name", ["on-policy", "tabular"])
def test_a_kind_is_imported_by_its_name(name):
    kind = loop(name)
    assert isinstance(kind, Loop) and kind.env_argument == "env" and kind.measured and kind.env_help


def test_an_unknown_kind_gets_the_nearest():
    with pytest.raises(UsageError, match="loop='tabula' is not known. Did you mean 'tabular'"):
        loop("tabula")


def test_every_method_is_of_a_known_kind():
    for entry in catalogue.methods():
        method = catalogue.method_class(entry.slug)
        assert method.loop in LOOPS and method.default_steps >= 1, entry.slug


@pytest.mark.parametrize(
    ("slug", "env", "single"), [("ppo", "CartPole-v1", "CartPole-v1"), ("rfzi", "two-state", "TabularEnv")]
)
def test_agents_are_evaluated_in_what_their_kind_learns_in(slug, env, single):
    made = loop(catalogue.method_class(slug).loop).single(env)
    assert made == single if isinstance(made, str) else type(made()).__name__ == single
