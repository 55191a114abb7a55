"""The AU table, row by row."""

import numpy as np
import pytest

from genet_ext.action_units import build_action_units, load_action_units
from genet_ext.parameters import load_parameter_space

# One parameter at 0.4, all others at 0: the AUs that this gives.
EXPECTED = {
    "AU12_L": {"AU12": 0.2},
    "AU17": {"AU17": 0.4},
    "AU27": {"AU25": 1.0, "AU26": 1.0},
    "AU25": {"AU25": 0.4},
    "AU10_R": {"AU10": 0.2, "AU25": 0.1},
    "AU16_L": {"AU25": 0.16},
    "AU28T": {"AU28": 0.2},
    "AU43_R": {"AU43": 0.2},
    "AU18": {},
    "AU30_L": {},
    "yaw": {},
    "id_00": {},
}


@pytest.mark.parametrize("parameter", EXPECTED)
def test_what_a_parameter_adds_to(parameter):
    space, table = load_parameter_space(), load_action_units()
    theta = np.zeros((1, space.size), np.float32)
    theta[0, space.index(parameter)] = 0.4
    values = dict(zip(table.names, table.values(theta)[0], strict=True))
    raised = {name: value for name, value in values.items() if value > 0}
    assert raised == pytest.approx(EXPECTED[parameter])


def test_values_are_clipped_and_the_unknown_au_is_nan():
    table = load_action_units()
    values = table.values(np.ones((2, load_parameter_space().size)))
    known = values[:, table.expressible]
    assert known.max() == 1
    assert known.min() > 0
    assert [name for name, known in zip(table.names, table.expressible, strict=True) if not known] == ["AU11"]
    assert np.isnan(values[:, ~table.expressible]).all()


def test_a_nan_face_is_nan_and_alone():
    theta = np.zeros((2, load_parameter_space().size))
    theta[0] = np.nan
    values = load_action_units().values(theta)
    assert np.isnan(values[0]).all()
    assert np.isnan(values[1]).sum() == 1


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"au": "AU12", "parameter": "AU99", "weight": "1"}, KeyError, "unknown parameter 'AU99'"),
        ({"au": "AU12", "parameter": "AU12_L", "weight": "-1"}, ValueError, "weight of AU12_L in AU12"),
    ],
)
def test_wrong_rows_are_named(row, error, message):
    with pytest.raises(error, match=message):
        build_action_units([row], load_parameter_space())
