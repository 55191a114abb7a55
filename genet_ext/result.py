"""What a fit gives back: one row per face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from genet_ext.action_units import FACS_LEVELS, load_action_units
from genet_ext.batching import in_chunks
from genet_ext.extractors.face_cnn import CROP_SIZE
from genet_ext.images import UInt8Array
from genet_ext.models import Models
from genet_ext.parameters import EXPRESSION, IDENTITY, POSE
from genet_ext.similarity import rotation_of
from genet_ext.solver import SearchSettings
from genet_ext.status import Status
from genet_ext.uncertainty import deviation, interval

if TYPE_CHECKING:
    from feat import Fex
    from matplotlib.figure import Figure

Array: TypeAlias = npt.NDArray[Any]

BOX_COLUMNS = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"]
POSE_COLUMNS = ["pitch_deg", "yaw_deg", "roll_deg"]
LANDMARK_COLUMNS = [f"{axis}_{i}" for axis in "xy" for i in range(68)]


@dataclass(frozen=True, eq=False)
class FitResult:
    """The fitted faces, in the order of the images and, within an image, of the face finder (best first).

    A face that could not be fitted keeps its row, with NaN in it: ``status`` and ``message`` say why.

    >>> result = genet_ext.fit("photo.jpg")            # doctest: +SKIP
    >>> result.aus                                     # AU intensities in [0, 1]         # doctest: +SKIP
    >>> result.plot("photo-fit.png")                   # photograph | rendering | AUs     # doctest: +SKIP
    >>> result[0].to_csv("first-face.csv")             # rows can be taken like a list's  # doctest: +SKIP

    Attributes:
        source: name of each face's image: its path, or ``"image 3"``.
        image: int [N], position of that image among the inputs.
        face: int [N], position of the face in its image.
        status: how each fit ended, see :class:`genet_ext.Status`.
        message: why a face was not fitted; else empty.
        box: float64 [N, 4], x1 y1 x2 y2 in px of the photograph.
        face_score: float64 [N], the face finder's in [0, 1]; NaN for given boxes.
        landmarks: float64 [N, 68, 2], px of the photograph, pixel centres at integers.
        theta: float32 [N, P], all fitted parameters, see :func:`genet_ext.load_parameter_space`.
        regressed: float32 [N, P], what the extractor alone says: the start, and the centre of the prior.
        appearance: float32 [N, 16], skin and light, for the rendering.
        features: float32 [N, D], whitened features of the photograph.
        similarity: float64 [N, 2, 3], photograph px -> crop px.
        loss: float64 [N], the objective at the optimum.
        distance: float64 [N], its part without the prior: how well the face model explains the photograph.
        misfit: float64 [N], the squared distance over the one to be expected: about 1 for faces like the
            training renders, several times that for anything that is no face; see :attr:`quality`.
        iterations: int [N], steps taken.
        posterior: float64 [N, 20, 2], what is believed of each AU: mean and standard deviation of a normal
            variable that is clipped to 0 and 1 (Laplace approximation, calibrated on held-out renders); NaN
            if not asked for. See :attr:`aus_sd` and :meth:`interval`.
        baseline: float64 [N, 20], AUs of the subject's face at rest, already subtracted in ``aus``: those of
            its neutral photograph, or with ``identity="shared"`` what its photographs tell of it; else zero.
        crops: uint8 [256, 256, 3] per face, the aligned photograph for plots; None where it was not kept.
        models, settings: what the fit was made with.
    """

    source: list[str]
    image: Array
    face: Array
    status: list[Status]
    message: list[str]
    box: Array
    face_score: Array
    landmarks: Array
    theta: Array
    regressed: Array
    appearance: Array
    features: Array
    similarity: Array
    loss: Array
    distance: Array
    misfit: Array
    iterations: Array
    posterior: Array
    baseline: Array
    crops: list[UInt8Array | None] = field(repr=False)
    models: Models = field(repr=False)
    settings: SearchSettings = field(repr=False)

    # --- the numbers ---

    @property
    def aus(self) -> pd.DataFrame:
        """AU intensities in [0, 1], py-feat's 20 columns AU01 ... AU43; 1 is the strongest movement."""
        return self._au_frame(self._au_values())

    @property
    def intensity(self) -> pd.DataFrame:
        """The same on the FACS scale, 0 (absent) to 5 (E, maximum)."""
        return self.aus * FACS_LEVELS

    @property
    def aus_sd(self) -> pd.DataFrame:
        """Standard deviation of :attr:`aus`, same columns and scale."""
        return self._au_frame(deviation(self._posterior_above_rest(), 1 - self.baseline))

    def interval(self, level: float = 0.95) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Lower and upper ends between which the AUs are believed to lie, same columns and scale as ``aus``.

        The AUs of the face at rest (``baseline``) are taken off as if they were exact.

        Raises ValueError if ``level`` is not between 0 and 1.
        """
        low, high = interval(self._posterior_above_rest(), level, 1 - self.baseline)
        return self._au_frame(low), self._au_frame(high)

    @property
    def pose(self) -> pd.DataFrame:
        """Head pose in the photograph, degrees, with py-feat's signs.

        ``pitch_deg`` is positive looking up, ``yaw_deg`` positive turned to the subject's right (image left),
        ``roll_deg`` positive with the crown tilted to the subject's right (image left).
        """
        pose = np.degrees(self._group(POSE).astype(np.float64))
        # Alignment has turned the crop upright: what it took out belongs to the head's roll in the
        # photograph.
        pose[:, 2] += np.degrees(rotation_of(self.similarity))
        return pd.DataFrame(pose, columns=POSE_COLUMNS)

    @property
    def expression(self) -> pd.DataFrame:
        """The expression parameters behind the AUs, in [0, 1], left and right sides of the subject apart."""
        return pd.DataFrame(self._group(EXPRESSION), columns=list(self.models.space.names_of(EXPRESSION)))

    @property
    def identity(self) -> pd.DataFrame:
        """The shape of the head: weights of ICT-FaceKit's identity modes, in standard deviations."""
        return pd.DataFrame(self._group(IDENTITY), columns=list(self.models.space.names_of(IDENTITY)))

    @property
    def fitted(self) -> npt.NDArray[np.bool_]:
        """bool [N], whether a face has numbers."""
        return np.array([status.fitted for status in self.status], bool)

    @property
    def quality(self) -> list[str]:
        """``"good"``, ``"doubtful"`` where the fit explains the picture badly, empty if not fitted.

        Doubtful is what fits worse than 99 in 100 held-out renders: pictures of no face at all, and of faces
        far out of pose, mostly covered, or unlike all that the networks were trained on.
        """
        limit = float(self.models.prior.misfit_limit)
        words = np.where(self.misfit < limit, "good", "doubtful")
        return [str(word) if ok else "" for word, ok in zip(words, self.fitted, strict=True)]

    def to_frame(self, landmarks: bool = True) -> pd.DataFrame:
        """Everything as one table, a row per face.

        Columns: input, image, face, status, message; FaceRectX, Y, Width, Height and FaceScore; AU01 ... AU43
        and their standard deviations sd_au01 ...; pitch_deg, yaw_deg, roll_deg; loss, distance, misfit,
        quality, iterations; the expression and identity parameters as p_au01_l ..., p_id_00 ...; the
        landmarks x_0 ... y_67.
        (Lower case, since py-feat's ``read_feat`` takes every column with "AU" in its name for an Action
        Unit.)
        """
        x1, y1, x2, y2 = self.box.T
        rows = {
            "input": self.source,
            "image": self.image,
            "face": self.face,
            "status": [str(status) for status in self.status],
            "message": self.message,
        }
        boxes = dict(zip(BOX_COLUMNS, (x1, y1, x2 - x1, y2 - y1), strict=True))
        parts = [
            pd.DataFrame({**rows, **boxes, "FaceScore": self.face_score}),
            self.aus,
            self.aus_sd.rename(columns=lambda name: f"sd_{name.lower()}"),
            self.pose,
            pd.DataFrame(
                {
                    "loss": self.loss,
                    "distance": self.distance,
                    "misfit": self.misfit,
                    "quality": self.quality,
                    "iterations": self.iterations,
                }
            ),
            self.expression.rename(columns=lambda name: f"p_{name.lower()}"),
            self.identity.add_prefix("p_"),
        ]
        if landmarks:
            parts.append(self._landmark_frame())
        return pd.concat(parts, axis=1)

    def to_csv(self, path: str | Path, landmarks: bool = True) -> None:
        """:meth:`to_frame` as a CSV file; ``pandas.read_csv`` gives the same numbers back."""
        self.to_frame(landmarks).to_csv(path, index=False)

    def to_fex(self) -> Fex:
        """A py-feat ``Fex``: boxes, landmarks, AUs and pose (radians there), ``frame`` and ``input``."""
        try:
            from feat import Fex
        except ImportError as error:
            raise ImportError("to_fex() needs py-feat: pip install genet-ext[feat]") from error
        x1, y1, x2, y2 = self.box.T
        boxes = dict(
            zip([*BOX_COLUMNS, "FaceScore"], (x1, y1, x2 - x1, y2 - y1, self.face_score), strict=True)
        )
        pose = np.radians(self.pose.to_numpy())
        poses = {"Pitch": pose[:, 0], "Roll": pose[:, 2], "Yaw": pose[:, 1]}
        data = pd.concat(
            [
                pd.DataFrame(boxes),
                self._landmark_frame(),
                self.aus,
                pd.DataFrame(poses),
                pd.DataFrame({"input": self.source, "frame": self.image}),
            ],
            axis=1,
        )
        return Fex(
            data,
            au_columns=list(load_action_units().names),
            facebox_columns=list(boxes),
            landmark_columns=LANDMARK_COLUMNS,
            facepose_columns=list(poses),
            time_columns=["frame"],
            detector="Feat",
            au_model="genet",
        )

    # --- the pictures ---

    def render(self) -> UInt8Array:
        """The image generator's picture of every fitted face: uint8 [N, 128, 128, 3]; grey for the others."""
        finite = np.isfinite(self.theta).all(1)
        device = self.models.device

        def run(theta: torch.Tensor, appearance: torch.Tensor) -> torch.Tensor:
            pixels: torch.Tensor = self.models.image_generator(theta, appearance)
            return (pixels * 255).round().to(torch.uint8)

        inputs = (torch.from_numpy(x[finite]).to(device) for x in (self.theta, self.appearance))
        with torch.no_grad():
            (pixels,) = in_chunks(run, *inputs)
        pictures = np.full((len(self), CROP_SIZE, CROP_SIZE, 3), 128, np.uint8)
        pictures[finite] = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return pictures

    def plot(self, path: str | Path | None = None) -> Figure:
        """Photograph, rendering and AU bars of every face, one below the other.

        Args:
            path: where to save the picture (its suffix sets the format); None to only return it.

        Raises:
            ValueError: more faces than one picture holds, or faces whose crop was not kept: take some, as in
                ``result[:5].plot()``, or fit with a larger ``keep_crops``.
        """
        from genet_ext.plotting import plot_result

        return plot_result(self, path)

    # --- a sequence of faces ---

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Any) -> FitResult:
        """Some of the faces: by position, slice, list of positions or boolean mask."""
        chosen = np.arange(len(self))[rows]
        return self._take(np.atleast_1d(chosen))

    def __iter__(self) -> Iterator[FitResult]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        failed = len(self) - int(self.fitted.sum())
        lines = [f"FitResult: {len(self)} face{'s' * (len(self) != 1)} in {len(set(self.image))} image(s)"]
        if failed:
            lines[0] += f", {failed} not fitted (see .status and .message)"
        if doubtful := self.quality.count("doubtful"):
            lines[0] += f", {doubtful} doubtful (see .quality)"
        for row, values in enumerate(self._au_values()[:5]):
            name = f"  {Path(self.source[row]).name} #{self.face[row]} {self.status[row]}"
            if self.status[row].fitted:
                top = np.argsort(-np.nan_to_num(values), kind="stable")[:4]
                strongest = ", ".join(f"{load_action_units().names[i]} {values[i]:.2f}" for i in top)
                lines.append(f"{name}: {strongest}, ...")
            else:
                lines.append(f"{name}: {self.message[row]}")
        if len(self) > 5:
            lines.append(f"  ... {len(self) - 5} more")
        lines.append(
            "  .aus [0, 1]  .intensity [0, 5]  .aus_sd  .pose  .landmarks  .to_csv(path)  .plot(path)"
        )
        return "\n".join(lines)

    def _take(self, rows: Array) -> FitResult:
        changes: dict[str, Any] = {}
        for name in _ROW_FIELDS:
            value = getattr(self, name)
            changes[name] = [value[r] for r in rows] if isinstance(value, list) else value[rows]
        return replace(self, **changes)

    def _au_values(self) -> npt.NDArray[np.float64]:
        values: npt.NDArray[np.float64] = np.clip(
            load_action_units().values(self.theta) - self.baseline, 0, 1
        )
        return values

    def _posterior_above_rest(self) -> npt.NDArray[np.float64]:
        posterior: npt.NDArray[np.float64] = self.posterior.copy()
        posterior[..., 0] -= self.baseline
        return posterior

    def _au_frame(self, values: Array) -> pd.DataFrame:
        return pd.DataFrame(values, columns=list(load_action_units().names))

    def _landmark_frame(self) -> pd.DataFrame:
        flat = self.landmarks.transpose(0, 2, 1).reshape(len(self), -1)
        return pd.DataFrame(flat, columns=LANDMARK_COLUMNS)

    def _group(self, name: str) -> Array:
        group: Array = self.theta[:, self.models.space.indices(name)]
        return group


_SHARED_FIELDS = ("models", "settings")
_ROW_FIELDS = tuple(f.name for f in fields(FitResult) if f.name not in _SHARED_FIELDS)


def concatenate(parts: Sequence[FitResult]) -> FitResult:
    """The faces of several results of one fit, in order."""
    if not parts:
        raise ValueError("parts: expected at least one result, got none")
    changes: dict[str, Any] = {}
    for name in _ROW_FIELDS:
        values = [getattr(part, name) for part in parts]
        changes[name] = list(chain(*values)) if isinstance(values[0], list) else np.concatenate(values)
    return replace(parts[0], **changes)
