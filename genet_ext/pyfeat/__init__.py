"""genet-ext as an AU model of py-feat 2.x.

`import genet_ext`, before or after `import feat`, makes `feat.Detectorv1(au_model="genet")` work: py-feat
finds the faces, landmarks, emotions, identities and gaze as always, and the 20 AU columns come from
`genet_ext.fit` on the frame's pixels and the face boxes. `unregister()` puts py-feat back as it was.

    model.py         GenetAUModel: frames and boxes -> rows of AU columns
    wrappers.py      the functions of py-feat that are wrapped, each with its wrapper
    tying.py         shared identity and smoothing: a person's frames tied together
    registration.py  register() and unregister(): putting the wrappers in and taking them out
    import_hook.py   waiting for `import feat`
    autoload.py      `genet-ext enable`: for scripts that never import genet_ext
    detector.py      genet_ext.Detector
    adding.py        add_aus(): AU columns for a Fex that another detector made

py-feat's conventions, read from its source (2.0.0 to 2.1.5; `feat/detector.py`, `feat/detector_v2.py`,
`feat/plotting.py`):

* Pose columns are `Pitch, Roll, Yaw, X, Y, Z`, in that order. The three angles are **radians**.
  +Pitch looks up, +Yaw turns to the subject's right (image left), +Roll tilts the crown to the subject's
  right (image left). These are the signs of `pitch`, `yaw` and `roll` in `genet_ext/data/parameters.csv`.
  (Files written by py-feat 0.x hold degrees.)
* `FaceRectX, FaceRectY, FaceRectWidth, FaceRectHeight, FaceScore`: left, top, width and height in pixels of
  the original image. The box is the face detector's, enlarged (by 1.2 in `Detectorv1`) about its centre and
  rounded, and may leave the image.
* Landmarks are `x_0..x_67, y_0..y_67` in pixels of the original image.
* The 20 AU columns lie in [0, 1]. A frame without a face is one row whose box and predictions are all NaN.
* `read_feat` takes every column whose name contains "AU" for an Action Unit: no other column may contain it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from genet_ext.pyfeat.registration import install, register, unregister

if TYPE_CHECKING:
    from genet_ext.pyfeat.adding import add_aus
    from genet_ext.pyfeat.model import AU_COLUMNS, EXTRA_COLUMNS, GenetAUModel

__all__ = [
    "AU_COLUMNS",
    "EXTRA_COLUMNS",
    "Detector",
    "GenetAUModel",
    "add_aus",
    "install",
    "register",
    "unregister",
]


# What needs torch, imported with the first use: `import genet_ext` comes through here and must stay cheap.
_HOMES = {"AU_COLUMNS": "model", "EXTRA_COLUMNS": "model", "GenetAUModel": "model", "add_aus": "adding"}


def __getattr__(name: str) -> Any:
    if name == "Detector":  # made on first use, because making it imports py-feat
        return import_module(f"{__name__}.detector").detector_class()
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
