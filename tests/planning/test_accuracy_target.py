"""The figure of an accuracy budget is taken on images that nothing was chosen by."""

import re
from types import SimpleNamespace

import pytest
import torch

from sepify.calibration.output_loss import choose_loss
from sepify.planning import accuracy_target
from sepify.planning.accuracy_target import (
    CheckImages,
    ErrorVerdict,
    Verdict,
    check_images_of,
    meet_accuracy_target,
)

CHOICES, IMAGES, STREAMS = 32, 2048, 100
POINTS, TRUE = 3.5, 5.0  # what is allowed, and what every choice but the original really loses


class Stream:
    """A trials of networks that answer image i as the original does or not, by chance: never on
    the half that the search looks at (as if overfitted to it), and on TRUE % of all others."""

    loss = SimpleNamespace(kind="kl")

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(CHOICES, IMAGES, generator=generator)
        self.wrong = (drawn < TRUE / 100) & (torch.arange(IMAGES) % 2 == 1)
        self.wrong[-1] = False  # the original itself

    def factors(self, forms, progress):
        return forms

    def answers(self, factors, batches):
        chosen = self.wrong[factors] if isinstance(factors, int) else self.wrong[-1]
        return [(torch.nn.functional.one_hot(chosen[ids].long(), 2).float(),) for (ids,) in batches]


@pytest.fixture
def kept(monkeypatch):
    choices = [SimpleNamespace(picks=number, cost=number) for number in range(CHOICES)]
    monkeypatch.setattr(accuracy_target, "frontier_choices", lambda *_: choices)
    monkeypatch.setattr(accuracy_target, "chosen_forms", lambda _, picks: picks)
    table = SimpleNamespace(original=CHOICES)
    monkeypatch.setattr(accuracy_target, "cost_table", lambda *_: table)

    def keep(seed):
        trials = Stream(seed)
        checks = check_images_of(trials, [(torch.arange(IMAGES),)], None)
        measurements = SimpleNamespace(layers=())
        return meet_accuracy_target(trials, measurements, POINTS, checks, lambda *_: None)

    return keep


def test_the_interval_that_is_told_holds_the_true_figure(kept):
    """With the images that rejected one plan verifying the next, about one stream in three ends in
    a plan that came through by luck, with an interval that the true figure is not in."""
    missed = told = 0
    for seed in range(STREAMS):
        plan = kept(seed)
        found = re.search(r"([\d.]+)% to ([\d.]+)%", plan.words)
        if plan.choice.picks < CHOICES - 1:  # not the original, which loses nothing
            told += 1
            missed += not float(found[1]) <= 100 - TRUE <= float(found[2])
    assert told >= 10
    assert missed <= 0.05 * STREAMS


def counted(losses):
    """verdict(choice, check) of 100 images from the number that each choice loses on each check."""
    asked = []

    def verdict(choice, check):
        asked.append((choice, check))
        lost = losses[choice][check]
        return Verdict(100 - lost, lost, 0, 0, labelled=False)

    return verdict, asked


def test_each_verifying_jury_is_asked_about_one_choice():
    # searched: choice 1; the first check rejects it, with which choice 2 is out as well
    losses = [(9, 9, 9, 9), (1, 5, 0, 0), (2, 4, 0, 0), (2, 1, 1, 0), (0, 0, 0, 0), (0, 0, 0, 0)]
    verdict, asked = counted(losses)
    assert accuracy_target.choose_and_verify(verdict, 5, 3, 2.0) == (3, 2)
    assert (1, 2) not in asked
    assert (3, 3) not in asked
    # no check accepts: the original, and no figure
    verdict, asked = counted([(0, 9, 9, 9)] + 4 * [(0, 0, 9, 9)] + [(0, 0, 0, 0)])
    assert accuracy_target.choose_and_verify(verdict, 5, 2, 5.0) == (5, None)


def test_as_many_tries_as_the_images_allow():
    for images, sizes in ((128, [64, 64]), (256, [128, 64, 64]), (2000, [1000, 500, 250, 250])):
        checks = check_images_of(Stream(0), [(torch.arange(images),)], None)
        assert [len(each.wanted[0][0]) for each in checks] == sizes
        ids = torch.cat([batch[0] for each in checks for batch in each.batches])
        assert sorted(ids.tolist()) == list(range(images))


def test_the_words_allow_for_the_tries():
    verdict = Verdict(95, 5, 0, 0, labelled=False)
    alone, last = verdict.words(1, 1), verdict.words(2, 3)
    assert "100 images that nothing was chosen by (95 %: 88.82% to 97.85%)" in alone
    assert "95 %, of 3 tries at most; try 2" in last
    low, high = re.search(r"([\d.]+)% to ([\d.]+)%", last).groups()
    assert float(low) < 88.82
    assert float(high) > 97.85


def test_outputs_that_are_no_classes_are_judged_by_their_squared_error():
    wanted = (torch.randn(64, 3, 4),)
    given = (wanted[0] + 0.1,)
    loss = choose_loss([wanted])
    verdict = CheckImages((), (wanted,), None, loss).judge([given])
    assert verdict.images == 64
    power = float((wanted[0] - wanted[0].mean(0)).square().sum(dim=(1, 2)).mean())
    assert verdict.error == pytest.approx(0.12 / power, rel=0.05)
    assert verdict.drop == pytest.approx(200 * verdict.error)
    both = verdict + ErrorVerdict(64, 0.0)
    assert (both.images, both.error) == (128, pytest.approx(verdict.error / 2))
    assert "64 images that nothing was chosen by" in verdict.words(1, 1)
