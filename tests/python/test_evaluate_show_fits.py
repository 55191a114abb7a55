"""Which pictures the README shows: no choosing of the best ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs opencv-python-headless (pip install genet-ext[train])")

from genet_ext.action_units import load_action_units
from python.evaluate import show_fits
from python.evaluate.pictures import over_grey


def test_the_first_frontal_picture_of_each_expression_and_nobody_twice():
    names = load_action_units().names
    aus = np.zeros((6, len(names)))
    aus[:, names.index("AU11")] = np.nan
    for row, au in enumerate(("AU12", "AU12", "AU12", "AU04", "AU04", "AU26")):
        aus[row, names.index(au)] = 0.9
    aus[5, names.index("AU26")] = 0.5  # too weak to be seen
    pose = np.zeros((6, 3))
    pose[0, 1] = 0.5  # turned away
    test = SimpleNamespace(
        aus=aus, names=names, pose=pose, scale=np.ones(6), person=np.array([0, 1, 2, 1, 3, 4])
    )
    assert show_fits.choose(test) == [1, 4]


def test_a_render_over_grey_keeps_its_colours_where_it_covers():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, (255, 0, 128)
    out = over_grey(rgba)
    assert out.dtype == np.uint8
    assert out[0].tolist() == [[200, 0, 0], [128, 128, 128], [164, 64, 64]]
