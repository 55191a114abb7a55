"""From a sample to its picture and labels: one call per stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import geometry, hair, rasterizer, shading
from .assets import (
    BLOCK,
    CLOTHES,
    GLASSES,
    HAIR,
    N_IDENTITY,
    FaceModel,
    ParameterTable,
    load_face_model,
    read_parameters,
)
from .geometry import CANVAS, F32, MARGIN, TEMPLATE
from .hair import HairModel, build_hair_model, place_clothes, place_glasses, place_hair
from .plain import plain
from .sampling import Sample, SamplingConfig, sample_one
from .skin import N_APPEARANCE_SKIN, Skin, SkinModel, compose, load_skin_model

APPEARANCE = (
    *(f"skin_{i:02d}" for i in range(N_APPEARANCE_SKIN)),
    "light_x",
    "light_y",
    "light_z",
    "exposure",
    "tint_r",
    "tint_b",
)
_PIVOT = np.array([0.0, 2.0, 5.0], np.float32)
# How far the eyes turn at weight 1 of an eyeLook shape, rad.
_GAZE = {"Out": 0.55, "In": 0.55, "Up": 0.42, "Down": 0.5}
# Jaw, lids that close, gaze: the same movement on every face.
_RIGID = ("AU27", "AU29", "AU30", "AU43", "AU61", "AU62", "AU63", "AU64")
# cm, least and most that the brows are moved as a whole, and tilted: beyond, skin above the lids would fold.
_BROW_SHIFT = np.array([[-1.25, -0.8], [0.6, 0.8]])
_SHADOW_SIZE = 96
_SHADOW_CM = 26.0


def _brow_rest(landmarks: F32) -> NDArray[np.float64]:
    """Height of the brows above the eyes' corners, and of their inner ends above their outer ones, cm: [2].

    Linear in the landmarks [68, 3], so that it also tells what a shape changes.
    """
    y = landmarks[:, 1].astype(np.float64)
    height = y[17:27].mean() - y[[36, 39, 42, 45]].mean()
    return np.array([height, y[[21, 22]].mean() - y[[17, 26]].mean()])


@dataclass(frozen=True)
class Render:
    image: NDArray[np.uint8]  # [192, 192, 4]
    theta: F32  # [P]
    landmarks: F32  # [68, 2] px of the canvas
    dense: F32  # [D, 2] px of the canvas
    dense_visible: NDArray[np.uint8]  # [D]
    appearance: F32  # [16]
    person: int
    identity: int
    seed: int


class Renderer:
    """Everything loaded once, and buffers that are used again. Not for several threads at a time."""

    def __init__(self, assets: Path, split: str = "train", config: SamplingConfig | None = None) -> None:
        self.config = config or SamplingConfig()
        self.split = split
        self.table: ParameterTable = read_parameters()
        self.face: FaceModel = load_face_model(assets / "ict_facekit.npz")
        self.skin: SkinModel = load_skin_model(assets / "frll_albedo_train.npz", self.face, self.table, split)
        self.hair: HairModel = build_hair_model(self.face)
        self._curve = shading.srgb_curve()
        self._shape_matrix = self.face.shape_matrix(
            [self.table.shape_weights[name] for name in self.table.expression]
        )
        self._soft = np.array([not n.startswith(_RIGID) for n in self.table.expression], np.float32)
        self._eyeballs = [np.flatnonzero(self.face.eyeball_part == side) for side in (0, 1)]
        self._bent_at = self.face.neutral.copy()
        for ball, centre in zip(self._eyeballs, self.face.eye_centres, strict=True):
            self._bent_at[ball] = centre  # a field shifts an eyeball as a whole
        deltas = self.face.deltas.reshape(len(self.face.deltas), -1, 3)
        self._brow_movers = [self.face.shapes.index(name) for name in ("brow_height", "brow_tilt")]
        moved = [_brow_rest(self.face.landmark_deltas[N_IDENTITY + k]) for k in self._brow_movers]
        self._brow_effect = np.stack(moved, 1)
        # How far each shape opens the lips in the middle, in int16 steps.
        upper, lower = self.face.landmarks[[61, 62, 63]], self.face.landmarks[[67, 66, 65]]
        self._lip_gap = (deltas[:, upper, 1].astype(np.float32) - deltas[:, lower, 1]).mean(1)
        self._lay_out()

    def _lay_out(self) -> None:
        """One vertex and one triangle list: face model, hair, glasses, clothes."""
        face, v = self.face, len(self.face.neutral)
        frame, lens = hair.build_glasses_triangles()
        h = len(self.hair.roots)
        g = int(max(frame.max(), lens.max())) + 1
        cloth = hair.build_clothes_triangles()
        self._hair_at, self._glasses_at, self._clothes_at = v, v + h, v + h + g
        total = v + h + g + int(cloth.max()) + 1
        parts = [face.triangles, self.hair.triangles + v, frame + v + h, lens + v + h, cloth + v + h + g]
        self._triangles = np.ascontiguousarray(np.concatenate(parts).astype(np.int32))
        ends = np.cumsum([len(p) for p in parts])
        self._hair_triangles = (int(ends[0]), int(ends[1]))
        self._frame_triangles = (int(ends[1]), int(ends[2]))
        self._lens_triangles = (int(ends[2]), int(ends[3]))
        self._clothes_triangles = (int(ends[3]), int(ends[4]))
        self._material = np.concatenate(
            [
                face.material,
                np.full(len(parts[1]), HAIR),
                np.full(len(parts[2]) + len(parts[3]), GLASSES),
                np.full(len(parts[4]), CLOTHES),
            ]
        ).astype(np.uint8)
        self._uv = np.zeros((total, 2), np.float32)
        self._uv[:v] = face.uv
        self._uv[self._clothes_at :] = hair.clothes_uv()
        self._hair_uv = self.hair.uv
        self._rest = np.zeros((total, 3), np.float32)
        self._rest[:v] = face.neutral
        self._density = np.zeros(total, np.float32)
        self._scalp = np.zeros(total, np.float32)
        self._points = np.zeros((total, 3), np.float32)
        self._camera = np.zeros((total, 3), np.float32)
        self._normal = np.zeros((total, 3), np.float32)
        self._plane = np.zeros((total, 2), np.float32)
        self._iw = np.zeros(total, np.float32)
        side = CANVAS * shading.SUPERSAMPLING
        self._depth = np.zeros((side, side), np.float32)
        self._seen = np.zeros((side, side), np.int32)
        self._lash = np.zeros((side, side), np.float32)
        self._lens = np.zeros((side, side), np.float32)
        self._shadow = np.zeros((_SHADOW_SIZE, _SHADOW_SIZE), np.float32)
        self._shadow_seen = np.zeros((_SHADOW_SIZE, _SHADOW_SIZE), np.int32)
        self._scalp_height = hair.hairline_height(face.neutral)

    def sample(self, seed: int, index: int) -> Sample:
        sample = sample_one(
            seed, self.split, index, self.table, self.skin.darkness, self.skin.rows, self.config
        )
        return plain(sample) if self.config.plain else sample

    def render(self, sample: Sample) -> Render:
        """Draw one sample. The returned theta carries the roll that the alignment left in the crop."""
        theta = sample.theta.copy()
        expression = theta[3 : 3 + len(self.table.expression)]
        self._place_vertices(sample, expression)
        to_canvas, roll = self._project(theta, sample.distance)
        theta[self.table.index("roll")] = roll
        xy = self._plane @ to_canvas[:, :2].T.astype(np.float32) + to_canvas[:, 2].astype(np.float32)
        skin = compose(self.skin, sample.skin, expression)
        samples_xy = np.ascontiguousarray((xy + 0.5) * shading.SUPERSAMPLING - 0.5, dtype=np.float32)
        self._rasterise(sample, samples_xy)
        image = self._shade(sample, skin, samples_xy, to_canvas)
        dense = xy[self.face.dense]
        light = np.array(sample.light.direction) * sample.light.share
        appearance = [*skin.coefficients, *light, sample.light.exposure, *sample.light.tint]
        return Render(
            image=image,
            theta=theta,
            landmarks=xy[self.face.landmarks].astype(np.float32),
            dense=dense.astype(np.float32),
            dense_visible=self._visible(self.face.dense, samples_xy),
            appearance=np.array(appearance, np.float32),
            person=sample.skin.person,
            identity=sample.identity_index,
            seed=sample.seed,
        )

    def _place_vertices(self, sample: Sample, expression: F32) -> None:
        """Head-frame positions of all vertices."""
        face = self.face
        # What muscles do to skin may differ from person to person; what bone and lids do may not.
        varies = self._soft if sample.strangeness else np.zeros_like(self._soft)
        shapes = np.zeros(len(face.shapes), np.float32)
        for name, weight in sample.hidden_shapes.items():
            shapes[face.shapes.index(name)] += weight
        if sample.brows is not None:
            self._set_brows(sample, sample.brows, shapes)
        shapes += (expression * (1 - varies)) @ self._shape_matrix
        weights = np.concatenate([sample.theta[-N_IDENTITY:], shapes]).astype(np.float32)
        # Most people close their lips at rest, whatever their shape: a label of parted lips must mean that.
        gap = self._lip_gap[:N_IDENTITY] @ weights[:N_IDENTITY]
        close = N_IDENTITY + face.shapes.index("mouthClose")
        weights[close] -= sample.lips_sealed * gap / self._lip_gap[close]
        v = len(face.neutral)
        flat, neutral = self._points[:v].reshape(-1), face.neutral.reshape(-1)
        step = np.float32(face.step)
        geometry.blend(flat, neutral, face.deltas, weights, face.active, step, BLOCK)
        if sample.strangeness:
            movement = np.zeros_like(face.neutral)
            habits = [sample.strangeness.habits.get(name, {}) for name in self.table.expression]
            matrix = self._shape_matrix + self.face.shape_matrix(habits)
            weights = np.concatenate([np.zeros(N_IDENTITY), (expression * varies) @ matrix])
            geometry.blend(
                movement.reshape(-1), movement.reshape(-1), face.deltas, weights.astype(np.float32),
                face.active, step, BLOCK,
            )  # fmt: skip
            sample.strangeness.bend(self._bent_at, self._points[:v], movement)
        self._turn_eyeballs(shapes)
        landmarks = self._points[face.landmarks]
        positions, density = place_hair(self.hair, sample.hair, self._points[:v], face.neutral)
        self._points[self._hair_at : self._glasses_at] = positions
        self._density[self._hair_at : self._glasses_at] = density
        if sample.glasses is not None:
            self._points[self._glasses_at : self._clothes_at] = place_glasses(sample.glasses, landmarks)
        pitch, yaw, follow = float(sample.theta[0]), float(sample.theta[1]), sample.clothes.follow
        body = geometry.rotation(follow * pitch, follow * yaw, 0.0)
        body_to_head = geometry.rotation(pitch, yaw, 0.0).T @ body
        self._points[self._clothes_at :] = place_clothes(sample.clothes, landmarks[8], body_to_head)

    def _set_brows(self, sample: Sample, brows: tuple[float, float], shapes: F32) -> None:
        """Choose the weights [S] of the shapes that move the brows so that they rest where they shall."""
        at = self.face.landmarks
        weights = np.concatenate([sample.theta[-N_IDENTITY:], shapes])
        rest = self.face.neutral[at] + np.tensordot(weights, self.face.landmark_deltas, 1)
        if sample.strangeness:
            sample.strangeness.bend(self._bent_at[at], rest, np.zeros_like(rest))
        unit = geometry.outer_eye_distance(rest)
        missing = unit * np.array(brows) - _brow_rest(rest)
        shift = np.linalg.solve(self._brow_effect, missing).clip(*_BROW_SHIFT)
        shapes[self._brow_movers] += shift.astype(np.float32)

    def _turn_eyeballs(self, shapes: F32) -> None:
        """The model's eyeLook shapes move the lids only: turn the eyeballs in their sockets to match."""
        for side, letter, out in ((0, "L", 1.0), (1, "R", -1.0)):
            look = {d: float(shapes[self.face.shapes.index(f"eyeLook{d}_{letter}")]) for d in _GAZE}
            # Positive azimuth looks to the subject's left, positive elevation up.
            azimuth = out * (look["Out"] * _GAZE["Out"] - look["In"] * _GAZE["In"])
            elevation = look["Up"] * _GAZE["Up"] - look["Down"] * _GAZE["Down"]
            ball = self._eyeballs[side]
            points = self._points[ball]
            centre = (points.min(0) + points.max(0)) / 2
            turn = geometry.rotation(elevation, -azimuth, 0.0)
            self._points[ball] = (points - centre) @ turn.T + centre

    def _project(self, theta: F32, distance: float) -> tuple[NDArray[np.float64], float]:
        """Fill camera positions and perspective plane; the similarity [2, 3] from it to the canvas; roll."""
        rot = geometry.rotation(float(theta[0]), float(theta[1]), 0.0)
        landmarks = self._points[self.face.landmarks]
        # The optical axis meets the face, so yaw and pitch are those relative to the viewing ray.
        offset = (landmarks[[27, 30, 33, 36, 45, 48, 54]].mean(0) - _PIVOT) @ rot.T
        pivot = (_PIVOT + rot.T @ np.array([offset[0], offset[1], 0.0], np.float32)).astype(np.float32)
        geometry.rotate_project(
            self._points, rot, pivot, np.float32(distance), self._camera, self._plane, self._iw
        )
        points = geometry.alignment_points(self._plane[self.face.landmarks])
        to_canvas = geometry.similarity(points, TEMPLATE + MARGIN)
        self._rot, self._pivot = rot, pivot
        geometry.vertex_normals(self._camera, self._triangles, self._normal)
        return to_canvas, geometry.roll_of_similarity(to_canvas)

    def _rasterise(self, sample: Sample, xy: F32) -> None:
        face = self.face
        for buffer in (self._depth, self._lash, self._lens):
            buffer.fill(0)
        self._seen.fill(rasterizer.NOTHING)
        tri, iw = self._triangles, self._iw
        rasterizer.draw(tri, 0, face.first_lash_triangle, True, xy, iw, self._depth, self._seen)
        rasterizer.draw(tri, *self._clothes_triangles, False, xy, iw, self._depth, self._seen)
        rasterizer.draw(
            tri, face.first_mouth_triangle, len(face.triangles), True, xy, iw, self._depth, self._seen
        )
        if not sample.hair.bald:
            shift = np.array(sample.hair.noise_shift, np.float32)
            self._uv[self._hair_at : self._glasses_at] = self._hair_uv + shift
            rasterizer.draw_strands(
                tri,
                *self._hair_triangles,
                xy,
                iw,
                self._density,
                self._uv,
                self.skin.fine,
                self._depth,
                self._seen,
            )
        rasterizer.draw_veil(
            tri, face.first_lash_triangle, face.first_mouth_triangle, xy, iw, self._depth, 0.5, self._lash
        )
        if sample.glasses is not None:
            rasterizer.draw(tri, *self._frame_triangles, False, xy, iw, self._depth, self._seen)
            rasterizer.draw_veil(
                tri, *self._lens_triangles, xy, iw, self._depth, sample.glasses.lens + 1e-4, self._lens
            )

    def _shadow_map(self, sample: Sample) -> F32:
        """Depth of the head seen from the light; returns camera frame -> its texels [2, 4]."""
        light = np.array(sample.light.direction, np.float32)
        up = np.array([0, 1, 0], np.float32) if abs(light[1]) < 0.95 else np.array([1, 0, 0], np.float32)
        across = np.cross(up, light)
        across /= np.linalg.norm(across)
        over = np.cross(light, across)
        scale = _SHADOW_SIZE / _SHADOW_CM
        matrix = np.zeros((2, 4), np.float32)
        matrix[0, :3], matrix[1, :3] = across * scale, -over * scale
        matrix[:, 3] = _SHADOW_SIZE / 2
        xy = (self._camera @ matrix[:, :3].T + matrix[:, 3]).astype(np.float32)
        # Any increasing function of nearness serves as depth; the offset keeps it positive.
        depth = (self._camera @ light + np.float32(100.0)).astype(np.float32)
        self._shadow.fill(0)
        self._shadow_seen.fill(rasterizer.NOTHING)
        rasterizer.draw(
            self._triangles,
            0,
            self.face.first_lash_triangle,
            True,
            xy,
            depth,
            self._shadow,
            self._shadow_seen,
        )
        self._shadow -= np.float32(100.0)
        return matrix

    def _shade(
        self, sample: Sample, skin: Skin, xy: F32, to_canvas: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        light, eyes, clothes = sample.light, sample.eyes, sample.clothes
        to_light = self._shadow_map(sample)
        face_landmarks = self.face.landmarks
        right, left = xy[face_landmarks[[36, 37, 38, 39]]], xy[face_landmarks[[42, 43, 44, 45]]]
        lid = np.stack([left[np.argsort(left[:, 0])], right[np.argsort(right[:, 0])]])
        eye_centres = np.stack(
            [self._points[: len(self.face.neutral)][self.face.eyeball_part == s] for s in (0, 1)]
        )
        eye_head = (eye_centres.min(1) + eye_centres.max(1)) / 2
        eye_camera = (eye_head - self._pivot) @ self._rot.T
        if sample.hair.bald:
            self._scalp.fill(0)
            self._scalp[: len(self._scalp_height)] = np.clip((self._scalp_height + 0.3) / 2, 0, 0.12)
        else:
            above = self._scalp_height + sample.hair.hairline
            self._scalp[: len(above)] = np.clip(above / 1.2, 0, 0.92) * ~self.face.ear
        exposure = np.exp(light.exposure) * np.exp([light.tint[0], 0.0, light.tint[1]])
        scene = shading.Scene(
            triangles=self._triangles,
            material=self._material,
            xy=xy,
            iw=self._iw,
            normal=self._normal,
            camera=self._camera,
            rest=self._rest,
            uv=self._uv,
            scalp=self._scalp,
            albedo=skin.albedo,
            fine=self.skin.fine,
            shadow=self._shadow,
            to_light=to_light,
            light=np.array([*light.direction, light.share], np.float32),
            back=np.array([*light.back, light.back_share], np.float32),
            colour=exposure.astype(np.float32),
            shadow_depth=light.shadow,
            skin=skin.tone,
            gloss=sample.skin.gloss,
            hair=np.array(sample.hair.colour, np.float32),
            iris=np.array(eyes.iris, np.float32),
            iris_size=np.array([eyes.iris_radius, eyes.pupil_radius], np.float32),
            sclera=(eyes.sclera * np.array([1, 0.94 - 0.1 * eyes.redness, 0.9 - 0.12 * eyes.redness])).astype(
                np.float32
            ),
            teeth=np.array(eyes.teeth, np.float32),
            glasses=np.array(sample.glasses.colour if sample.glasses else (0, 0, 0), np.float32),
            clothes=np.array([*clothes.colour, *clothes.stripe, clothes.stripes], np.float32),
            eye_rest=self.face.eye_centres,
            eye_camera=eye_camera.astype(np.float32),
            lid=lid.astype(np.float32),
            lip_depth=float(self._rest[face_landmarks[62], 2]),
            samples_per_cm=float(np.hypot(to_canvas[0, 0], to_canvas[1, 0])) * shading.SUPERSAMPLING,
        )
        image = np.zeros((CANVAS, CANVAS, 4), np.uint8)
        glare = sample.glasses.glare if sample.glasses else 0.0
        shading.shade(
            scene, self._seen, self._lash, self._lens, eyes.lash, np.float32(glare), self._curve, image
        )
        shading.spread_edges(image)
        return image

    def _visible(self, vertices: NDArray[np.int32], xy: F32) -> NDArray[np.uint8]:
        """1 where the surface drawn at a vertex's sample is the vertex itself (within 4 mm)."""
        side = self._depth.shape[0]
        sample = np.round(xy[vertices]).astype(int)
        inside = ((sample >= 0) & (sample < side)).all(1)
        at = np.clip(sample, 0, side - 1)
        nearest = self._depth[at[:, 1], at[:, 0]]
        iw = self._iw[vertices]
        facing = self._normal[vertices, 2] > -0.05
        # depth is 1 / distance: compare in centimetres.
        gap = 1 / iw - 1 / np.maximum(nearest, 1e-9)
        out: NDArray[np.uint8] = (inside & facing & (nearest > 0) & (gap < 0.4)).astype(np.uint8)
        return out
