"""genet-ext as an AU model of py-feat 2.x.

py-feat's conventions, read from its source (2.0.0 to 2.1.5; `feat/detector.py`, `feat/detector_v2.py`, `feat/plotting.py`):

* Pose columns are `Pitch, Roll, Yaw, X, Y, Z`, in that order. The three angles are **radians**.
  +Pitch looks up, +Yaw turns to the subject's right (image left), +Roll tilts the crown to the subject's right
  (image left). These are the signs of `pitch`, `yaw` and `roll` in `genet_ext/data/parameters.csv`. (Files written
  by py-feat 0.x hold degrees.)
* `FaceRectX, FaceRectY, FaceRectWidth, FaceRectHeight, FaceScore`: left, top, width, height in pixels of the original
  image. The box is the face detector's, enlarged by 1.2 about its centre and rounded, and may leave the image.
* Landmarks are `x_0..x_67, y_0..y_67` in pixels of the original image.
* The 20 AU columns lie in [0, 1]; a frame without a face is one row whose box and predictions are all NaN.
* `read_feat` takes every column whose name contains "AU" for an Action Unit, so no other column may contain it.
"""
