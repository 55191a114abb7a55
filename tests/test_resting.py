"""The offset that all pictures of a person share: found where it is one, left where it is an expression."""

import numpy as np
import pytest

from genet_ext import resting
from genet_ext.resting import OFFSETS, resting_aus

FRAMES = 60
USUAL = np.ones(FRAMES)


def readings(movement, offset, seed=0):
    """[FRAMES, 1] readings of a movement on a face that reads as `offset` at rest."""
    rng = np.random.default_rng(seed)
    read = np.clip(movement + offset, 0, 1) + (0.03 + 0.1 * offset) * rng.normal(size=FRAMES)
    return np.clip(read, 0, 1)[:, None]


def at_rest(aus, spread=0.15, doubt=None):
    return resting_aus(aus, np.ones(len(aus)) if doubt is None else doubt, np.array([spread]))[0]


@pytest.mark.parametrize("offset", [0.1, 0.25])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_an_offset_is_found_behind_the_movements(offset, share):
    """However often something moves."""
    moves = np.where(np.arange(FRAMES) < share * FRAMES, np.linspace(0.3, 0.7, FRAMES), 0.0)
    assert abs(at_rest(readings(moves, offset)) - offset) < 0.05


def test_nothing_is_found_where_nothing_is():
    """Not even in noise, or in an AU that is always there only by half."""
    assert at_rest(readings(0, 0.0)) < 0.01
    blinks = np.where(np.arange(FRAMES) % 4 == 0, 0.9, 0.0)
    assert at_rest(readings(blinks, 0.0)) < 0.01
    assert at_rest(np.full((FRAMES, 1), np.nan)) == 0


def test_a_held_expression_is_left():
    """A smile from the first frame to the last."""
    smile = readings(0.8, 0.0)
    assert at_rest(smile) < 0.08
    assert at_rest(smile, spread=0.06) < 0.01


def test_the_spread_over_people_decides_what_is_usual():
    always = readings(0, 0.35)
    assert at_rest(always, spread=0.25) > 0.25
    assert at_rest(always, spread=0.06) < 0.1


def test_one_picture_shares_nothing():
    assert at_rest(np.array([[0.2]])) < 1e-9
    few = [at_rest(np.full((count, 1), 0.2)) for count in (2, 4, 40)]
    assert few[0] < few[1] < few[2] < 0.2


def test_spoilt_pictures_say_less():
    """A hand before the face in most frames reads as something; the other frames know better."""
    spoilt = np.arange(FRAMES) < 0.7 * FRAMES
    aus = np.where(spoilt[:, None], readings(0, 0.25), 0.0)
    trusted = at_rest(aus)
    assert at_rest(aus, doubt=np.where(spoilt, 20.0, 1.0)) < 0.5 * trusted


def test_every_au_for_itself():
    columns = [readings(0, 0.2), readings(0.8, 0.0), readings(0, 0.0)]
    spread = np.array([0.15, 0.06, 0.1])
    together = resting_aus(np.concatenate(columns, 1), USUAL, spread)
    alone = [resting_aus(column, USUAL, spread[[k]])[0] for k, column in enumerate(columns)]
    assert np.allclose(together, alone)


def test_likelihood_is_about_a_probability():
    """The chance of reading 0 and the density of everything above it come to one."""
    y = np.linspace(resting.ABSENT, 1, 4001)[:, None]
    above = np.trapezoid(np.exp(resting._log_likelihood(y))[:, 0], y[:, 0], axis=0)
    total = above + np.exp(resting._log_likelihood(np.zeros((1, 1))))[0, 0]
    usual = (OFFSETS > -0.4) & (OFFSETS < 0.4)
    assert (abs(total[usual] - 1) < 0.12).all()
