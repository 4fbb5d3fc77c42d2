"""Policies that ship with dqlab: they are small, say where they are from, and do what their cards say."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

import dqlab
from dqlab.errors import RunError
from dqlab.runs.load_policy import pretrained_policies

LARGEST = 3_000_000
POLICIES = pretrained_policies()


def test_there_are_some_and_they_are_small() -> None:
    assert "walker2d-mini" in POLICIES
    files = [path for folder in POLICIES.values() for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    assert not [path for path in files if str(ROOT).encode() in path.read_bytes()]


@pytest.mark.parametrize("name", POLICIES)
def test_it_scores_about_what_its_card_says(name: str) -> None:
    """In five episodes; the card's are a hundred."""
    card = (POLICIES[name] / "README.md").read_text()
    told, spread = map(float, re.findall(r"it scores ([\d.]+) \+- ([\d.]+) in 100 new episodes", card)[0])
    policy = dqlab.load_policy(f"pretrained:{name}")
    assert dqlab.evaluate(policy, episodes=5).score.mean() > told - 1.5 * spread
    assert "SHA-256" in card
    assert policy.source.facts["data"]["digest"] in card


def test_another_name_is_refused() -> None:
    with pytest.raises(RunError, match=r"No pretrained policy is called 'walker'\. .*Known: .*walker2d-mini"):
        dqlab.load_policy("pretrained:walker")
