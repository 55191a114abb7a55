"""The functions of py-feat that are wrapped, and the wrappers.

py-feat has no registry of AU models: `Detectorv1.__init__` refuses names that it does not know, and `forward`
hands an AU model HOG features only. Those two are wrapped, `detect` for what needs all frames, and two
that draw AUs. Each wrapper takes the original and leaves everything that is not "genet" to it.
"""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from genet_ext.pyfeat.model import AU_COLUMNS, NAME, GenetAUModel, collecting
from genet_ext.pyfeat.tying import raise_if_nobody_can_tell, tied_rows

UNEXPRESSED = "AU11"  # the face model has no shape for it: NaN by design


def wrap_init(original: Callable[..., None]) -> Callable[..., None]:
    """`Detectorv1.__init__`: takes `au_model="genet"` and one more keyword, `au_kwargs`."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, au_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            original(self, *args, **kwargs)  # raises py-feat's own message
            raise
        bound.apply_defaults()
        au_model = bound.arguments["au_model"]
        if au_model == NAME:
            _init_genet(original, bound, au_kwargs or {})
        elif au_kwargs is None:
            original(self, *args, **kwargs)
        else:
            raise TypeError(f"au_kwargs: only for au_model={NAME!r}, but au_model is {au_model!r}")

    au_kwargs = inspect.Parameter("au_kwargs", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*signature.parameters.values(), au_kwargs]
    __init__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return __init__


def _init_genet(
    original: Callable[..., None], bound: inspect.BoundArguments, au_kwargs: dict[str, Any]
) -> None:
    detector = bound.args[0]
    # The AU model comes first: a misspelt option should not wait for py-feat's downloads.
    au_model = GenetAUModel(**{"device": bound.arguments["device"], **au_kwargs})
    bound.arguments["au_model"] = None
    autograd = torch.is_grad_enabled()  # building RetinaFace switches it off for the process
    try:
        original(*bound.args, **bound.kwargs)
    finally:
        torch.set_grad_enabled(autograd)
    detector.info["au_model"] = NAME
    detector.au_detector = au_model
    _warn_of_one_thread(au_model.device)


def wrap_forward(original: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """`Detectorv1.forward`: py-feat's table without AUs, then the AUs."""

    @functools.wraps(original)
    def forward(self: Any, faces_data: list[dict[str, Any]], batch_data: dict[str, Any]) -> pd.DataFrame:
        au_model = self.au_detector
        if not isinstance(au_model, GenetAUModel):
            return original(self, faces_data, batch_data)
        table = original(_WithoutAUModel(self), faces_data, batch_data)
        boxes = [face["new_boxes"] for face in faces_data]
        rows = au_model.detect_au_from_frames(batch_data["Image"], boxes)
        table[AU_COLUMNS] = rows[AU_COLUMNS].to_numpy()
        return pd.concat([table, rows.drop(columns=AU_COLUMNS)], axis=1)

    return forward


def wrap_detect(original: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """`Detectorv1.detect`: ties the frames of each person together at its end, where asked to."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def detect(self: Any, *args: Any, **kwargs: Any) -> pd.DataFrame:
        au_model = self.au_detector
        if not (isinstance(au_model, GenetAUModel) and au_model.ties_frames):
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        data_type, save = bound.arguments["data_type"], bound.arguments["save"]
        raise_if_nobody_can_tell(self.info["identity_model"] is not None, data_type)
        with collecting() as fits:
            fex = original(self, *args, **kwargs)
        rows = tied_rows(au_model, fits, fex, data_type)
        for column in rows:
            fex[column] = rows[column].to_numpy()
        if save:
            fex.to_csv(save, mode="w", index=False)  # as py-feat does when it has found the identities
        return fex

    return detect


class _WithoutAUModel:
    """A detector as py-feat's own `forward` is to see it: everything but the AU model.

    Safer than clearing `au_detector` for the length of a call: another thread may be using the detector.
    """

    au_detector = None

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)


def wrap_prepare_plot_aus(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Fex._prepare_plot_aus`: draws the face that py-feat draws for its own AU models."""

    @functools.wraps(original)
    def _prepare_plot_aus(self: Any, row: Any, muscles: Any, gaze: Any) -> Any:
        if self.au_model != NAME:
            return original(self, row, muscles, gaze)
        fex = self.copy(deep=False)
        fex.au_model = "xgb"  # the same 20 AUs on the same scale
        return original(fex, _at_rest_where_unexpressed(row), muscles, gaze)

    return _prepare_plot_aus


def wrap_draw_plotly_au(original: Callable[..., Any]) -> Callable[..., Any]:
    """`draw_plotly_au`: cannot take the NaN of an AU that the face model does not express."""

    @functools.wraps(original)
    def draw_plotly_au(row: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(row, "au_model", None) == NAME:
            row = _at_rest_where_unexpressed(row)
        return original(row, *args, **kwargs)

    return draw_plotly_au


def _at_rest_where_unexpressed(row: Any) -> Any:
    """For drawing: a Fex row with AU11 = 0 instead of NaN. Rows of frames without a face stay NaN."""
    if row[AU_COLUMNS].isna().all():
        return row
    row = row.copy()
    row[UNEXPRESSED] = 0.0
    return row


def refuse(original: Callable[..., None], reason: str) -> Callable[..., None]:
    """A detector's `__init__` in a py-feat that is not supported: an error for "genet", and nothing else."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        values = (*args, *kwargs.values())
        if "au_kwargs" in kwargs or any(isinstance(value, str) and value == NAME for value in values):
            raise RuntimeError(reason)
        original(self, *args, **kwargs)

    return __init__


@functools.cache
def _warn_of_one_thread(device: str) -> None:
    """Say once that `import feat` left this process with one thread, where it did and where it matters."""
    if device != "cpu" or torch.get_num_threads() > 1 or (os.cpu_count() or 1) == 1:
        return
    if os.environ.get("OMP_NUM_THREADS") != "1" or _started_with_thread_setting():
        return
    warnings.warn(
        "import feat sets OMP_NUM_THREADS=1 where it is unset, so AUs are fitted on one thread. For more, "
        "call torch.set_num_threads(n) or set OMP_NUM_THREADS before Python starts.",
        stacklevel=4,  # the line that makes the Detectorv1
    )


def _started_with_thread_setting() -> bool:
    """Whether OMP_NUM_THREADS was set when the process started (False where the system cannot say)."""
    try:
        with open("/proc/self/environ", "rb") as environment:
            return b"OMP_NUM_THREADS=" in environment.read()
    except OSError:
        return False
