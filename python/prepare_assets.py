"""Build the renderer's asset files from their public sources.

    python -m python.prepare_assets face-model ICT-FaceKit/ ict_facekit.npz
    python -m python.prepare_assets textures TEXTURES/ frll_albedo_train.npz

`face-model` rebuilds ict_facekit.npz in full from a checkout of https://github.com/ICT-VGL/ICT-FaceKit (MIT).

`textures` packs face textures that are already in ICT-FaceKit's layout (tile 0 of its UV map). It does NOT
make textures out of photographs: those in use were made from the Face Research Lab London Set (CC BY 4.0) by
finding landmarks, fitting ICT-FaceKit, projecting, mirroring and inpainting, and that fitting is not part of
this repository. Any textures of that layout do, also painted or scanned ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

STEP = 0.002
"""Centimetres per int16 step of a delta."""
N_IDENTITY = 100
TEXTURE_SIZE = 256

# "Face Model Topology" in ICT-FaceKit's README: name -> last vertex.
PARTS: dict[str, int] = {
    "face": 9408,
    "head_neck": 11247,
    "mouth_socket": 13293,
    "eye_socket_left": 13677,
    "eye_socket_right": 14061,
    "gums_tongue": 17038,
    "teeth": 21450,
    "eyeball_left": 23020,
    "eyeball_right": 24590,
    "lacrimal_left": 24794,
    "lacrimal_right": 24998,
    "eye_blend_left": 25022,
    "eye_blend_right": 25046,
    "eye_occlusion_left": 25198,
    "eye_occlusion_right": 25350,
    "eyelashes_left": 26034,
    "eyelashes_right": 26718,
}
# Shipped beside the shapes that vertex_indices.json lists, but missing from its list.
UNLISTED_SHAPES = ("PupilDilate_L", "PupilDilate_R", "cheekRaiser_L", "cheekRaiser_R")


@dataclass
class Obj:
    """What of a Wavefront OBJ file matters here; indices from 0."""

    vertices: NDArray[np.float64]
    uv: NDArray[np.float64]
    polygons: list[list[int]] = field(default_factory=list)
    polygons_uv: list[list[int]] = field(default_factory=list)
    polygon_material: list[str] = field(default_factory=list)


def read_obj(path: Path) -> Obj:
    """Raises ValueError where a face has no texture coordinate or fewer than three corners."""
    vertices: list[list[float]] = []
    uv: list[list[float]] = []
    out = Obj(np.empty(0), np.empty(0))
    material = ""
    with path.open() as f:
        for number, line in enumerate(f, 1):
            kind, _, rest = line.partition(" ")
            if kind == "v":
                vertices.append([float(t) for t in rest.split()[:3]])
            elif kind == "vt":
                uv.append([float(t) for t in rest.split()[:2]])
            elif kind == "usemtl":
                material = rest.strip()
            elif kind == "f":
                corners = [c.split("/") for c in rest.split()]
                if len(corners) < 3 or any(len(c) < 2 or not c[1] for c in corners):
                    raise ValueError(
                        f"{path}:{number}: expected three or more corners v/vt, got {rest.strip()!r}"
                    )
                out.polygons.append([int(c[0]) - 1 for c in corners])
                out.polygons_uv.append([int(c[1]) - 1 for c in corners])
                out.polygon_material.append(material)
    out.vertices, out.uv = np.array(vertices, np.float64), np.array(uv, np.float64)
    return out


def read_vertices(path: Path, expected: int) -> NDArray[np.float64]:
    """Only the vertices of an OBJ file [V, 3]: much faster than all of it."""
    with path.open() as f:
        rows = [line[2:] for line in f if line.startswith("v ")]
    if len(rows) != expected:
        raise ValueError(f"{path}: expected {expected} vertices as in the neutral mesh, got {len(rows)}")
    return np.array([row.split()[:3] for row in rows], np.float64)


def _deltas(paths: list[Path], neutral: NDArray[np.float64], label: str) -> NDArray[np.int16]:
    out = np.empty((len(paths), *neutral.shape), np.int16)
    for i, path in enumerate(tqdm(paths, desc=label, unit="file")):
        steps = np.round((read_vertices(path, len(neutral)) - neutral) / STEP)
        if np.abs(steps).max() > np.iinfo(np.int16).max:
            raise ValueError(f"{path}: moves a vertex by more than {STEP * np.iinfo(np.int16).max:.0f} cm")
        out[i] = steps
    return out


def _pad(polygons: list[list[int]]) -> NDArray[np.int32]:
    out = np.full((len(polygons), max(len(p) for p in polygons)), -1, np.int32)
    for row, polygon in zip(out, polygons, strict=True):
        row[: len(polygon)] = polygon
    return out


def build_face_model(
    checkout: Path, parts: dict[str, int] = PARTS, n_identity: int = N_IDENTITY
) -> dict[str, NDArray[Any]]:
    """The arrays of ict_facekit.npz. Raises FileNotFoundError or ValueError for another checkout."""
    folder = checkout / "FaceXModel"
    neutral_path, indices_path = folder / "generic_neutral_mesh.obj", folder / "vertex_indices.json"
    for path in (neutral_path, indices_path):
        if not path.is_file():
            raise FileNotFoundError(f"checkout: expected {path}; is this a checkout of ICT-VGL/ICT-FaceKit?")
    mesh = read_obj(neutral_path)
    if len(mesh.vertices) != max(parts.values()) + 1:
        raise ValueError(
            f"{neutral_path}: expected {max(parts.values()) + 1} vertices, got {len(mesh.vertices)}"
        )
    indices = json.loads(indices_path.read_text())
    if len(indices["idx_to_landmark_verts"]) != 68:
        raise ValueError(
            f"{indices_path}: expected 68 landmarks, got {len(indices['idx_to_landmark_verts'])}"
        )

    listed = [str(s) for s in indices["expressions"]]
    names = listed + [s for s in UNLISTED_SHAPES if s not in listed and (folder / f"{s}.obj").is_file()]
    identity = [folder / f"identity{i:03d}.obj" for i in range(n_identity)]
    missing = [p.name for p in (*identity, *(folder / f"{s}.obj" for s in names)) if not p.is_file()]
    if missing:
        raise FileNotFoundError(
            f"checkout: {len(missing)} files missing in {folder}: {', '.join(missing[:5])} ..."
        )

    triangles, triangles_uv, of_polygon = [], [], []
    for i, (polygon, corner) in enumerate(zip(mesh.polygons, mesh.polygons_uv, strict=True)):
        for k in range(1, len(polygon) - 1):
            triangles.append((polygon[0], polygon[k], polygon[k + 1]))
            triangles_uv.append((corner[0], corner[k], corner[k + 1]))
            of_polygon.append(i)
    # At a seam a vertex has several texture coordinates: keep the one of the lowest number.
    first_uv = np.full(len(mesh.vertices), len(mesh.uv), np.int64)
    flat = np.array(triangles).reshape(-1), np.array(triangles_uv).reshape(-1)
    np.minimum.at(first_uv, *flat)
    vertex_uv = np.where(first_uv < len(mesh.uv), first_uv, 0)

    materials = list(dict.fromkeys(mesh.polygon_material))
    polygon_material = np.array([materials.index(m) for m in mesh.polygon_material], np.int8)
    ends = np.array(list(parts.values()))
    license_path = checkout / "LICENSE"
    return {
        "neutral": mesh.vertices.astype(np.float32),
        "identity": _deltas(identity, mesh.vertices, "identity"),
        "expression": _deltas([folder / f"{s}.obj" for s in names], mesh.vertices, "expression"),
        "delta_step": np.float32(STEP),
        "expression_names": np.array(names),
        "n_expression_config": np.int32(len(listed)),
        "triangles": np.array(triangles, np.int32),
        "triangles_uv": np.array(triangles_uv, np.int32),
        "triangle_material": polygon_material[of_polygon],
        "triangle_polygon": np.array(of_polygon, np.int32),
        "polygons": _pad(mesh.polygons),
        "polygons_uv": _pad(mesh.polygons_uv),
        "polygon_material": polygon_material,
        "material_names": np.array(materials),
        "uv": mesh.uv.astype(np.float32),
        "vertex_uv": mesh.uv[vertex_uv].astype(np.float32),
        "vertex_part": np.searchsorted(ends, np.arange(len(mesh.vertices))).astype(np.int8),
        "part_names": np.array(list(parts)),
        "part_vertex_range": np.stack([np.concatenate([[0], ends[:-1] + 1]), ends], 1).astype(np.int32),
        "landmarks_multipie68": np.array(indices["idx_to_landmark_verts"], np.int32),
        "license": np.array(license_path.read_text() if license_path.is_file() else "MIT, see ICT-FaceKit"),
        "source": np.array("https://github.com/ICT-VGL/ICT-FaceKit (ICT Face Model Light, MIT)"),
    }


def pack_textures(folder: Path) -> dict[str, NDArray[Any]]:
    """What the renderer reads of frll_albedo_train.npz, from FOLDER/NAME.png and FOLDER/NAME_mask.png.

    Textures are 256 x 256 sRGB, row 0 at v = 1; masks are 255 where the texture was seen, lower where it was
    guessed, and all 255 where there is none. LICENSE.txt in the folder is kept in the file, and must exist.
    """
    import cv2

    notice = folder / "LICENSE.txt"
    if not notice.is_file():
        raise FileNotFoundError(f"folder: expected {notice} with the licence and attribution of the textures")
    paths = sorted(p for p in folder.glob("*.png") if not p.stem.endswith("_mask"))
    if not paths:
        raise FileNotFoundError(f"folder: no NAME.png in {folder}")
    textures, masks = [], []
    for path in paths:
        texture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if texture is None or texture.shape != (TEXTURE_SIZE, TEXTURE_SIZE, 3):
            got = "no readable picture" if texture is None else f"{texture.shape[1]} x {texture.shape[0]}"
            raise ValueError(f"{path}: expected {TEXTURE_SIZE} x {TEXTURE_SIZE} RGB, got {got}")
        mask_path = path.with_name(f"{path.stem}_mask.png")
        mask = np.full(texture.shape[:2], 255, np.uint8)
        if mask_path.is_file():
            mask = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
            if mask is None or mask.shape != texture.shape[:2]:
                raise ValueError(f"{mask_path}: expected {TEXTURE_SIZE} x {TEXTURE_SIZE} grey")
        textures.append(texture[..., ::-1])
        masks.append(mask)
    return {
        "tex": np.stack(textures),
        "mask": np.stack(masks),
        "person_id": np.array([p.stem for p in paths]),
        "license": np.array(notice.read_text()),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m python.prepare_assets",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    face = commands.add_parser("face-model", help="ict_facekit.npz from an ICT-FaceKit checkout")
    face.add_argument("checkout", type=Path)
    textures = commands.add_parser("textures", help="pack textures of ICT-FaceKit's layout; no fitting")
    textures.add_argument("folder", type=Path)
    for command in (face, textures):
        command.add_argument("output", type=Path)
    args = parser.parse_args(argv)
    try:
        arrays = (
            build_face_model(args.checkout) if args.command == "face-model" else pack_textures(args.folder)
        )
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    np.savez_compressed(args.output, **arrays)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
