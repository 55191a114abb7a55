"""`identity="shared"` and `smoothing`: tying the faces of a person together once every frame has been seen.

py-feat streams a film through the detector in batches and finds out who is who (`Identity`) at the very end.
So every face is first fitted for itself, as always; the fits are kept (about 4 KB a face), and when `detect`
has its table the AU columns are computed again from them, without looking at a pixel a second time. A file
that `detect(save=...)` streams holds each frame's own values until then, and is written anew with the tied
ones: an interrupted run leaves whole rows of untied values.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from genet_ext.pyfeat.model import NAME, FrameFits, GenetAUModel

if TYPE_CHECKING:
    from feat.data import Fex

PERSON_COLUMN = f"{NAME}_person"


def raise_if_nobody_can_tell(has_identities: bool, data_type: str) -> None:
    """ValueError where neither identities nor boxes say who is who: boxes do so in a film only."""
    if not has_identities and data_type.lower() != "video":
        raise ValueError(
            "au_kwargs: identity='shared' and smoothing must know who is who: give the detector an "
            f"identity_model, or a film (data_type='video', not {data_type!r}), in which faces are followed "
            "by their boxes"
        )


def tied_rows(au_model: GenetAUModel, fits: Sequence[FrameFits], fex: Fex, data_type: str) -> pd.DataFrame:
    """The rows of `fex` anew, with the frames of each person tied together.

    People are those of `fex["Identity"]` where py-feat had an identity model, else faces followed by their
    boxes from frame to frame. With `extra_columns` a last column, `genet_person`, says which it was and who:
    "Person_0", ..., or "face_0", ...; "Person_0/1" where one frame has two faces of Person_0, which only
    their boxes tell apart.

    Args:
        au_model: with the options.
        fits: the faces of every row of `fex`, fitted for themselves, in order.
        fex: rows with `frame`, and `Identity` if it is to be used.
        data_type: of `detect`.
    """
    from genet_ext.result import concatenate

    is_face = np.concatenate([np.empty(0, dtype=bool), *(part.is_face for part in fits)])
    if len(is_face) != len(fex):
        raise RuntimeError(f"{len(is_face)} faces were fitted for a table of {len(fex)} rows")
    results = [part.result for part in fits if part.result is not None]
    people = pd.Series([None] * len(fex), dtype=object)
    result = None
    if results:
        result = concatenate(results)
        frames = fex["frame"].to_numpy()[is_face]
        identities = fex["Identity"].to_numpy(dtype=object)[is_face] if "Identity" in fex else None
        labels = _people(identities, frames, result.box, data_type)
        result = au_model.tie(result, labels, frames)
        people[is_face] = labels
    rows = au_model.table(FrameFits(is_face, result))
    if au_model.extra_columns:
        rows[PERSON_COLUMN] = people
    return rows


def _people(
    identities: npt.NDArray[np.object_] | None,
    frames: npt.NDArray[np.integer[Any]],
    boxes: npt.NDArray[np.float64],
    data_type: str,
) -> list[str]:
    """Who each face [N] is."""
    from genet_ext.sequences import follow_boxes, tell_apart

    named = np.zeros(len(frames), bool) if identities is None else pd.notna(identities)
    raise_if_nobody_can_tell(bool(named.any()), data_type)
    if identities is None or not named.any():
        return [f"face_{number}" for number in follow_boxes(frames, boxes)]
    # A face without a name, or one of those that HDBSCAN leaves over, is nobody else's.
    single = ~named | (identities == "Unknown")
    labels: list[Hashable] = [
        f"unknown_{row}" if alone else name
        for row, (name, alone) in enumerate(zip(identities, single, strict=True))
    ]
    told = tell_apart(labels, frames, boxes)
    return ["/".join(map(str, who)) if isinstance(who, tuple) else str(who) for who in told]
