"""genet-ext as an AU model of py-feat 2.x.

`import genet_ext`, before or after `import feat`, makes `feat.Detectorv1(au_model="genet")` work: py-feat finds the
faces, landmarks, emotions, identities and gaze as always, and the 20 AU columns come from `genet_ext.fit` on the
frame's pixels and the face boxes. `unregister()` puts py-feat back as it was.

py-feat has no registry of AU models: its constructor refuses names it does not know, and its `forward` hands an AU
model HOG features only. So `Detectorv1.__init__` and `.forward` are wrapped (nothing else in the detection path is),
and only where their source is the one this file was written against; see `EXPECTED_SOURCES`.

py-feat's conventions, read from its source (2.0.0 to 2.1.5; `feat/detector.py`, `feat/detector_v2.py`,
`feat/plotting.py`):

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

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from genet_ext._import_hook import AfterImport

if TYPE_CHECKING:
    from feat.data import Fex

NAME = "genet"
SUPPORTED = "py-feat 2.0.0 to 2.1.5"
AU_COLUMNS = [
    f"AU{number:02d}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
]
UNCERTAINTY_COLUMNS = [f"{NAME}_sd_{column[2:]}" for column in AU_COLUMNS]
LOSS_COLUMN, STATUS_COLUMN = f"{NAME}_loss", f"{NAME}_status"
EXTRA_COLUMNS = [LOSS_COLUMN, STATUS_COLUMN, *UNCERTAINTY_COLUMNS]
UNEXPRESSED = ["AU11"]  # the face model has no shape for it: NaN by design
NO_FACE = "no_face"

# SHA-256 of each function this file wraps or relies on; the same in all ten 2.x releases.
EXPECTED_SOURCES = {
    "feat.detector:Detectorv1.__init__": "2c762d86167019546262a77b6cd8d22fb7d1b0aeb500ada1e1e7d13b4e071713",
    "feat.detector:Detectorv1.forward": "75bbb18b0fc9921ce039c30a45e5f58b776497886d56d879bfdd14ab5111bfb5",
    "feat.detector:Detectorv1.detect_faces": "d9a05a69231196a59570fef679c363d3cd35bdcf02b64294c2b0e882242abe77",
    "feat.detector:Detectorv1.detect": "ffc512fa94a37d216f3cccc3fbaf200521007ef60e9e522a263aeb76d16f7a4d",
    "feat.data:Fex._prepare_plot_aus": "f99f8716ad75f87d9b289cb07dd20af81b0c5d62eefe589c03bcb0cb7b1eaef7",
    "feat.data:draw_plotly_au": "9dac26403a9efa23b4d3aada72b56da9a5ea9cfafcbdd6abe89bdaa649a87635",
}


# ---------------------------------------------------------------------------------------------------- the AU model


class GenetAUModel:
    """The AU model behind `au_model="genet"`: face boxes in frames -> AU rows.

    It is the `au_detector` of a detector made with that name, and what `PRETRAINED_MODELS` lists. It holds options
    only (the networks are loaded once per process and device), so it pickles and copies for nothing.

    Args:
        device: torch device of the fit, "cpu", "cuda" or "auto". Apple's "mps" falls back to the CPU, said once.
        extra_columns: whether rows also have `genet_loss`, `genet_status` and `genet_sd_01` .. `genet_sd_43`.
        fit_options: passed to `genet_ext.fit`, e.g. `iterations=100` or `objective="image"`.

    Raises TypeError for an option that `genet_ext.fit` does not have or that this class sets itself.
    """

    def __init__(
        self, device: torch.device | str = "auto", *, extra_columns: bool = True, **fit_options: Any
    ) -> None:
        allowed = _fit_options()
        unknown = sorted(set(fit_options) - set(allowed))
        if unknown:
            raise TypeError(f"au_kwargs: unknown {unknown}; expected some of {sorted({*allowed, 'extra_columns'})}")
        self.device = _fit_device(device)
        self.extra_columns = extra_columns
        self.fit_options = fit_options

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.fit_options.items())
        return f"GenetAUModel(device={self.device!r}, extra_columns={self.extra_columns}{options})"

    @property
    def columns(self) -> list[str]:
        """The columns of a table of rows, AUs first."""
        return AU_COLUMNS + (EXTRA_COLUMNS if self.extra_columns else [])

    def rows(self, frames: Sequence[torch.Tensor], boxes: Sequence[np.ndarray]) -> pd.DataFrame:
        """Fit every face of every frame in one call.

        Args:
            frames: one [3, H, W] tensor per frame, in [0, 255] (uint8, or float as py-feat passes it), any sizes.
            boxes: one [n, 4] array per frame: left, top, right, bottom in pixels of that frame; a row with a NaN
                means that the frame has no face there.

        Returns a table with one row per box, in the order of the boxes: AUs in [0, 1] and, with `extra_columns`, the
        distance left at the optimum, the fit's status and the AUs' standard deviations. Rows of NaN boxes are NaN and
        their status is "no_face".
        """
        present = [~np.isnan(frame_boxes).any(axis=1) for frame_boxes in boxes]
        is_face = np.concatenate([np.empty(0, dtype=bool), *present])
        some = [index for index, faces in enumerate(present) if faces.any()]
        if some:
            fitted = self._fit([_pixels(frames[i]) for i in some], [boxes[i][present[i]] for i in some])
        else:
            fitted = pd.DataFrame(columns=AU_COLUMNS + EXTRA_COLUMNS, dtype=np.float32)
        if len(fitted) != is_face.sum():
            raise RuntimeError(f"genet_ext.fit returned {len(fitted)} rows for {is_face.sum()} boxes")
        fitted.index = pd.Index(np.flatnonzero(is_face))
        table = fitted.reindex(range(is_face.size))
        table[STATUS_COLUMN] = table[STATUS_COLUMN].astype(object).where(is_face, NO_FACE)
        return table[self.columns]

    def detect_au(self, *_: Any, **__: Any) -> None:
        """What py-feat's own `forward` would call; it gets there only when that function is not wrapped any more."""
        raise RuntimeError(
            'this detector was made with au_model="genet", but genet_ext.unregister() has been called since: '
            "call genet_ext.register()"
        )

    def _fit(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> pd.DataFrame:
        """`genet_ext.fit` on [H, W, 3] uint8 images and their boxes, as rows. The only place that reads a FitResult."""
        import genet_ext

        # The caller may be inside py-feat's inference mode, or in a process where RetinaFace switched autograd off.
        with torch.inference_mode(False), torch.enable_grad():
            result = genet_ext.fit(
                images,
                boxes=boxes,
                device=self.device,
                models=_models(self.device),
                progress=False,
                **self.fit_options,
            )
        rows = result.aus[AU_COLUMNS].astype(np.float32).reset_index(drop=True)
        rows[LOSS_COLUMN] = np.asarray(result.loss, dtype=np.float32)
        rows[STATUS_COLUMN] = [str(status) for status in result.status]
        deviations = getattr(result, "au_sd", None)
        rows[UNCERTAINTY_COLUMNS] = np.nan if deviations is None else np.asarray(deviations, dtype=np.float32)
        return rows


def _fit_options() -> list[str]:
    """The keywords of `genet_ext.fit` that a caller of py-feat may set."""
    import genet_ext

    own = {"imgs", "boxes", "landmarks", "device", "models", "progress"}
    return [name for name in inspect.signature(genet_ext.fit).parameters if name not in own]


def _fit_device(device: torch.device | str) -> str:
    name = str(device)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("mps"):
        warnings.warn("genet-ext has no MPS kernels: the AU model runs on the CPU", stacklevel=4)
        return "cpu"
    return name


@functools.lru_cache(maxsize=4)
def _models(device: str) -> Any:
    from genet_ext.models import load_models

    return load_models(device)


def _pixels(frame: torch.Tensor) -> np.ndarray:
    """A [3, H, W] frame in [0, 255] -> [H, W, 3] uint8, a view where it already is uint8."""
    if frame.dtype != torch.uint8:
        frame = frame.float().round().clamp(0, 255).to(torch.uint8)
    return frame.permute(1, 2, 0).cpu().numpy()


# ------------------------------------------------------------------------------------------------ the wrapped parts


class _WithoutAUModel:
    """A detector as py-feat's own `forward` is to see it: everything but the AU model.

    Cheaper and safer than clearing `au_detector` for the length of a call: another thread may use the detector.
    """

    au_detector = None

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)


def _wrap_init(original: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, au_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return original(self, *args, **kwargs)  # py-feat's own message
        au_model = bound.arguments.get("au_model", signature.parameters["au_model"].default)
        if au_model != NAME:
            if au_kwargs is not None:
                raise TypeError(f"au_kwargs: only for au_model={NAME!r}, but au_model is {au_model!r}")
            return original(self, *args, **kwargs)
        # First the AU model: a misspelt option should not wait for py-feat's downloads.
        device = bound.arguments.get("device", signature.parameters["device"].default)
        au_detector = GenetAUModel(**{"device": device, **(au_kwargs or {})})
        bound.arguments["au_model"] = None
        autograd = torch.is_grad_enabled()  # building RetinaFace switches it off for the process
        try:
            original(*bound.args, **bound.kwargs)
        finally:
            torch.set_grad_enabled(autograd)
        self.info["au_model"] = NAME
        self.au_detector = au_detector
        _warn_of_one_thread(au_detector.device)

    parameters = [
        *signature.parameters.values(),
        inspect.Parameter("au_kwargs", inspect.Parameter.KEYWORD_ONLY, default=None),
    ]
    __init__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return __init__


def _wrap_forward(original: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    @functools.wraps(original)
    def forward(self: Any, faces_data: list[dict[str, Any]], batch_data: dict[str, Any]) -> pd.DataFrame:
        au_model = self.au_detector
        if not isinstance(au_model, GenetAUModel):
            return original(self, faces_data, batch_data)
        table = original(_WithoutAUModel(self), faces_data, batch_data)
        boxes = [face["new_boxes"].detach().cpu().numpy().astype(np.float32) for face in faces_data]
        rows = au_model.rows(batch_data["Image"], boxes)
        table[AU_COLUMNS] = rows[AU_COLUMNS].to_numpy()
        return pd.concat([table, rows.drop(columns=AU_COLUMNS)], axis=1)

    return forward


def _wrap_prepare_plot_aus(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _prepare_plot_aus(self: Any, row: Any, muscles: Any, gaze: Any) -> Any:
        if self.au_model != NAME:
            return original(self, row, muscles, gaze)
        fex = self.copy(deep=False)
        fex.au_model = "xgb"  # the same 20 AUs in [0, 1], so the face that py-feat draws for its own models
        return original(fex, _with_unexpressed_at_rest(row), muscles, gaze)

    return _prepare_plot_aus


def _wrap_draw_plotly_au(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def draw_plotly_au(row: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(row, "au_model", None) == NAME:
            row = _with_unexpressed_at_rest(row)
        return original(row, *args, **kwargs)

    return draw_plotly_au


def _with_unexpressed_at_rest(row: Any) -> Any:
    """A Fex row whose AU11 is 0 instead of NaN, for drawing; rows of frames without a face stay NaN."""
    if row[AU_COLUMNS].isna().all():
        return row
    row = row.copy()
    row[UNEXPRESSED] = 0.0
    return row


@functools.cache
def _warn_of_one_thread(device: str) -> None:
    """Say once that `import feat` left this process with one thread, where it did and that matters."""
    if device != "cpu" or torch.get_num_threads() > 1 or (os.cpu_count() or 1) == 1:
        return
    if os.environ.get("OMP_NUM_THREADS") != "1" or _user_set_threads():
        return
    warnings.warn(
        "import feat sets OMP_NUM_THREADS=1 where it is unset, so the AU fit runs on one thread. "
        "Call torch.set_num_threads(n), import genet_ext before feat, or set OMP_NUM_THREADS yourself.",
        stacklevel=4,
    )


def _user_set_threads() -> bool:
    """Whether OMP_NUM_THREADS was in the environment that the process started with (False where Linux cannot say)."""
    try:
        with open("/proc/self/environ", "rb") as environment:
            return b"OMP_NUM_THREADS=" in environment.read()
    except OSError:
        return False


# ----------------------------------------------------------------------------------------- putting it into py-feat

_MISSING = object()


class _Patches:
    """Attributes replaced in py-feat, and what was there before."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Set `owner.name` to `make(what it was)`; nothing if that has been done (feat.detector can be reloaded)."""
        if any(owner is known and name == attribute for known, attribute, _ in self._originals):
            return
        original = vars(owner).get(name, _MISSING)
        self._originals.append((owner, name, original))
        setattr(owner, name, make(original))

    def undo(self) -> None:
        """Put the very same objects back, last one first."""
        while self._originals:
            owner, name, original = self._originals.pop()
            if original is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


_patches = _Patches()
_hook: AfterImport | None = None
_refusal: str | None = None  # why the py-feat that is loaded was not extended


def register(alias: bool = False, check: bool = True) -> None:
    """Make `au_model="genet"` known to py-feat, now or as soon as it is imported. `import genet_ext` calls this.

    Args:
        alias: also add `feat.Detector` and `feat.detector.Detector`, the name that py-feat 2.0 dropped, for code
            written for py-feat 0.x: py-feat's own `Detectorv1` with py-feat's own defaults.
        check: refuse a py-feat whose code is not the one this version was written against. With False it is wrapped
            all the same: compare the results with care.

    Raises RuntimeError naming the supported versions if py-feat is already imported and is refused.
    """
    install(alias=alias, check=check)
    if _refusal is not None:
        raise RuntimeError(_refusal)


def install(alias: bool = False, check: bool = True) -> None:
    """`register` without the error: `import genet_ext` must work beside any py-feat.

    With a py-feat that is refused, the error comes when somebody asks for `au_model="genet"`.
    """
    global _hook
    unregister()
    _hook = AfterImport("feat.detector", functools.partial(_patch, alias=alias, check=check))
    sys.meta_path.insert(0, _hook)
    loaded = sys.modules.get("feat.detector")
    if loaded is not None:
        _patch(loaded, alias=alias, check=check)


def unregister() -> None:
    """Put every attribute of py-feat back and stop waiting for its import.

    A detector already made with `au_model="genet"` fails at its next `detect` until `register()` is called.
    """
    global _hook, _refusal
    if _hook in sys.meta_path:
        sys.meta_path.remove(_hook)  # type: ignore[arg-type]
    _hook, _refusal = None, None
    _patches.undo()


def _patch(detector: ModuleType, alias: bool, check: bool) -> None:
    """Extend the py-feat whose module `feat.detector` has just been loaded."""
    global _refusal
    _refusal = _why_refused() if check else None
    if _refusal is not None:
        for name in ("Detectorv1", "Detector"):  # py-feat 0.x has the second
            if hasattr(detector, name):
                _patches.replace(getattr(detector, name), "__init__", functools.partial(_refuse, reason=_refusal))
        return
    feat, data, pretrained = (sys.modules[name] for name in ("feat", "feat.data", "feat.pretrained"))
    _patches.replace(detector.Detectorv1, "__init__", _wrap_init)
    _patches.replace(detector.Detectorv1, "forward", _wrap_forward)
    _patches.replace(detector.Detectorv1, "SUPPORTED_MODELS", _with_genet_option)
    _patches.replace(data.Fex, "_prepare_plot_aus", _wrap_prepare_plot_aus)
    _patches.replace(data, "draw_plotly_au", _wrap_draw_plotly_au)
    _patches.replace(pretrained, "PRETRAINED_MODELS", _with_genet_model)
    if alias:
        _patches.replace(feat, "Detector", lambda _: detector.Detectorv1)
        _patches.replace(detector, "Detector", lambda _: detector.Detectorv1)


def _with_genet_option(supported: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`Detectorv1.SUPPORTED_MODELS` with one more AU model, before the None at the end."""
    options = supported["au_model"]["options"]
    options = [*(name for name in options if name is not None), NAME, *(name for name in options if name is None)]
    return {**supported, "au_model": {**supported["au_model"], "options": options}}


def _with_genet_model(models: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {**models, "au_model": [*models["au_model"], {NAME: GenetAUModel}]}


def _refuse(original: Callable[..., None], reason: str) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if "au_kwargs" in kwargs or any(
            isinstance(value, str) and value == NAME for value in (*args, *kwargs.values())
        ):
            raise RuntimeError(reason)
        original(self, *args, **kwargs)

    return __init__


def _why_refused() -> str | None:
    """None for a py-feat whose functions have the expected source; else an error message for the user."""
    differences = []
    for name, expected in EXPECTED_SOURCES.items():
        found = source_hash(name)
        if found != expected:
            differences.append(f"{name} ({found[:12]}, expected {expected[:12]})")
    if not differences:
        return None
    from feat.version import __version__ as version

    return (
        f'au_model="genet" is not available with py-feat {version}: this genet-ext supports {SUPPORTED}, and the source '
        f"of these functions is another: {'; '.join(differences)}. Install a supported py-feat or a newer genet-ext, or "
        "call genet_ext.register(check=False) to try all the same."
    )


def source_hash(name: str) -> str:
    """SHA-256 of the source of a loaded "module:function" as py-feat ships it, or "missing"."""
    module, _, path = name.partition(":")
    try:
        function = functools.reduce(getattr, path.split("."), sys.modules[module])
        return hashlib.sha256(inspect.getsource(inspect.unwrap(function)).encode()).hexdigest()  # type: ignore[arg-type]
    except (KeyError, AttributeError, OSError, TypeError):
        return "missing"


# --------------------------------------------------------------------------------------------- for users of py-feat


def __getattr__(name: str) -> Any:
    if name == "Detector":
        return _detector_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _detector_class() -> type:
    """`genet_ext.Detector`, made on first use because making it imports py-feat."""
    try:
        from feat.detector import Detectorv1
    except ImportError as error:
        message = f"genet_ext.Detector needs {SUPPORTED}: pip install 'genet-ext[feat]' ({error})"
        raise ImportError(message) from error
    if _refusal is not None:
        raise ImportError(_refusal)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.arguments.setdefault("au_model", NAME)
        Detectorv1.__init__(*bound.args, **bound.kwargs)

    signature = inspect.signature(Detectorv1.__init__)
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(default=NAME) if p.name == "au_model" else p for p in signature.parameters.values()]
    )
    doc = """py-feat's `Detectorv1` with `au_model="genet"` for a default; everything else is as in py-feat."""
    body = {"__init__": __init__, "__doc__": doc, "__module__": __name__, "__qualname__": "Detector"}
    return type(Detectorv1)("Detector", (Detectorv1,), body)


def add_aus(
    fex: Fex,
    inputs: str | Sequence[str] | torch.Tensor | None = None,
    *,
    data_type: str = "image",
    device: torch.device | str = "auto",
    batch_size: int = 16,
    progress_bar: bool = False,
    **au_kwargs: Any,
) -> Fex:
    """A copy of `fex` whose AU columns are this package's: for `Detectorv2`, `MPDetector` and Fex files with face boxes.

    The AU columns that `fex` has are replaced, those of its detector that are not among the 20 (Detectorv2 has more)
    are dropped, and `fex.aus` gives the 20. Everything else stays.

    Args:
        fex: rows with `FaceRectX`, `FaceRectY`, `FaceRectWidth`, `FaceRectHeight`, `input` and `frame`.
        inputs: what was passed to `detect`. None reads the files that `fex.input` names.
        data_type: "image", "tensor" or "video", as for `detect`.
        device: where the fit runs: "cpu", "cuda" or "auto".
        batch_size: frames per call of `genet_ext.fit`; it does not change the numbers.
        progress_bar: show one.
        au_kwargs: as in `Detectorv1(au_model="genet", au_kwargs=...)`.

    Raises ValueError for an unknown `data_type`, for columns that are missing and for a frame that `inputs` lacks.
    """
    from feat.utils import FEAT_FACEBOX_COLUMNS
    from tqdm import tqdm

    missing = [column for column in (*FEAT_FACEBOX_COLUMNS[:4], "input", "frame") if column not in fex.columns]
    if missing:
        raise ValueError(f"fex: expected columns {missing}, found {list(fex.columns[:8])} ...")
    au_model = GenetAUModel(device, **au_kwargs)
    left, top, width, height = (fex[column].to_numpy(np.float32) for column in FEAT_FACEBOX_COLUMNS[:4])
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    read_frame = _frame_reader(fex, inputs, data_type)
    # Rows by frame, in order of appearance: every frame is read once.
    groups = list(
        pd.DataFrame({"input": fex["input"].to_numpy(), "frame": fex["frame"].to_numpy()})
        .groupby(["input", "frame"], sort=False)
        .indices.items()
    )
    tables = []
    for start in tqdm(range(0, len(groups), batch_size), disable=not progress_bar):
        batch = groups[start : start + batch_size]
        frames = [read_frame(str(name), int(frame)) for (name, frame), _ in batch]
        table = au_model.rows(frames, [boxes[rows] for _, rows in batch])
        tables.append(table.set_index(np.concatenate([rows for _, rows in batch])))
    rows = pd.concat(tables).sort_index() if tables else au_model.rows([], [])
    return _with_rows(fex, rows.set_index(fex.index))


def _frame_reader(fex: Fex, inputs: Any, data_type: str) -> Callable[[str, int], torch.Tensor]:
    """(input, frame) of a Fex row -> that frame's pixels [3, H, W], read as py-feat's `detect` reads them."""
    from feat.data import ImageDataset, TensorDataset, VideoDataset

    if data_type == "image":
        if inputs is None:
            return lambda name, _: ImageDataset(name)[0]["Image"]
        dataset: Any = ImageDataset(inputs)
    elif data_type == "tensor":
        if inputs is None:
            raise ValueError(
                "inputs: expected the tensor that was passed to detect, as data_type is 'tensor', not None"
            )
        dataset = TensorDataset(inputs)
    elif data_type == "video":
        dataset = VideoDataset(str(fex["input"].iloc[0]) if inputs is None else inputs)
    else:
        raise ValueError(f"data_type: expected 'image', 'tensor' or 'video', not {data_type!r}")

    def read(_: str, frame: int) -> torch.Tensor:
        if not 0 <= frame < len(dataset):
            raise ValueError(f"inputs: fex has a frame {frame}, but there are {len(dataset)} frames")
        return dataset[frame]["Image"]

    return read


def _with_rows(fex: Fex, rows: pd.DataFrame) -> Fex:
    """`fex` with its AU columns replaced by those of `rows` where they were, and the extra columns at the end."""
    old = [*(fex.au_columns or []), *AU_COLUMNS, *EXTRA_COLUMNS]
    kept = fex.drop(columns=[column for column in old if column in fex.columns])
    first = next((i for i, column in enumerate(fex.columns) if column in old), len(kept.columns))
    parts = [kept.iloc[:, :first], rows[AU_COLUMNS], kept.iloc[:, first:], rows.drop(columns=AU_COLUMNS)]
    out = type(fex)(pd.concat([pd.DataFrame(part) for part in parts], axis=1)).__finalize__(fex)
    out.au_columns, out.au_model = list(AU_COLUMNS), NAME
    return out
