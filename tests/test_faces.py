"""Geometry of alignment, cropping, the face finder, and boxes and landmarks as callers give them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from photographs import ASTRONAUT_BOX
from PIL import Image
from skimage.data import astronaut, chelsea, coffee, hubble_deep_field

from genet_ext import face_finder
from genet_ext.extractors import ExtractorOutput
from genet_ext.face_finder import find_faces
from genet_ext.faces import (
    TEMPLATE,
    align_faces,
    align_to_template,
    both_ways,
    box_to_similarity,
    crop,
    cut_patch,
    faces_of,
    iter_given,
    look,
    mirrored_points,
)
from genet_ext.images import iter_sources
from genet_ext.models import load_models, random_models
from genet_ext.parameters import load_parameter_space
from genet_ext.similarity import invert, rotation_of, scale_of, transform
from genet_ext.status import Status

FACE = np.array(ASTRONAUT_BOX)


def landmarks_at(points):
    """68 landmarks whose eye centres and nose tip are ``points`` [3, 2]."""
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48], landmarks[30] = points
    return landmarks


def similarity(scale, degrees, x, y):
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, x], [s, c, y]])


def test_alignment_undoes_any_similarity():
    wanted = similarity(0.31, 25, -12, 40)
    landmarks = landmarks_at(transform(invert(wanted), TEMPLATE))
    found = align_to_template(landmarks[None])[0]
    assert np.allclose(found, wanted)
    assert np.isclose(scale_of(found), 0.31)
    assert np.isclose(np.degrees(rotation_of(found)), 25)


def test_alignment_is_the_least_squares_similarity():
    rng = np.random.default_rng(0)
    points = rng.normal(100, 30, (3, 2))
    found = align_to_template(landmarks_at(points)[None])[0]
    design = np.zeros((6, 4))
    for i, (x, y) in enumerate(points):
        design[2 * i], design[2 * i + 1] = (x, -y, 1, 0), (y, x, 0, 1)
    a, b, tx, ty = np.linalg.lstsq(design, TEMPLATE.ravel(), rcond=None)[0]
    assert np.allclose(found, [[a, -b, tx], [b, a, ty]])


def test_alignment_of_coinciding_points_is_not_finite():
    assert not np.isfinite(align_to_template(np.zeros((1, 68, 2)))).any()


def test_alignment_names_a_wrong_shape():
    with pytest.raises(ValueError, match=r"landmarks: expected shape \[B, 68, 2\], got \[68, 2\]"):
        align_to_template(np.zeros((68, 2)))


def test_crop_by_whole_pixels_copies():
    image = astronaut()
    assert np.array_equal(crop(image, similarity(1, 0, -100, -50)), image[50:178, 100:228])


def test_crop_of_a_ramp_is_the_ramp():
    """Sub-pixel position: on a linear image bilinear interpolation and averaging are exact up to rounding."""
    y, x = np.mgrid[:400, :400]
    image = np.stack([x / 2, y / 2, (x + y) / 4], 2).round().astype(np.uint8)
    for scale in (0.35, 0.8, 1.0, 1.7):
        wanted = similarity(scale, 20, 63.5, 63.5)
        wanted[:, 2] -= wanted[:, :2] @ [200.25, 199.75]
        inverse = invert(wanted)
        v, u = np.mgrid[:128, :128]
        where = transform(inverse, np.stack([u, v], 2).reshape(-1, 2)).reshape(128, 128, 2)
        expected = np.stack([where[..., 0] / 2, where[..., 1] / 2, where.sum(2) / 4], 2)
        inside = ((where > 2) & (where < 397)).all(2)
        assert inside.mean() > 0.5
        assert np.abs(crop(image, wanted).astype(float) - expected)[inside].max() < 1.6, scale


def test_large_faces_do_not_alias():
    """A one-pixel checkerboard seen at a third of its size is grey, not a moire pattern."""
    y, x = np.mgrid[:600, :600]
    board = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[:, :, None], 3, 2)
    picture = crop(board, similarity(1 / 3.3, 7, 0, 0)).astype(float)
    assert np.abs(picture - 127.5).max() < 45
    assert picture.std() < 15


def test_crop_beyond_the_image_repeats_its_border():
    image = np.full((60, 50, 3), 90, np.uint8)
    assert (crop(image, similarity(0.7, 30, 100, -20)) == 90).all()


def test_crop_of_another_size_shows_the_same_field():
    wanted = similarity(0.9, 5, -130, -60)
    small, large = crop(astronaut(), wanted), crop(astronaut(), wanted, 256)
    halved = np.asarray(Image.fromarray(large).reduce(2)).astype(float)
    assert np.abs(halved - small).mean() < 2.5


def test_patch_gives_the_crop_of_the_whole_photograph():
    image = np.asarray(Image.fromarray(astronaut()).resize((1536, 1536), Image.Resampling.BICUBIC))
    for box in (FACE * 3, np.array([0.0, 0.0, 300.0, 300.0]), np.array([1200.0, 1200.0, 1536.0, 1536.0])):
        first = box_to_similarity(box)
        patch = cut_patch(image, first)
        assert max(patch.pixels.shape) < 900
        difference = np.abs(patch.crop(first).astype(float) - crop(image, first))
        assert difference.mean() < 1.5, box


def test_finder_finds_the_face_and_nothing_else():
    boxes, scores = find_faces(astronaut())
    assert len(boxes) == 1
    assert scores[0] >= 0.5
    assert np.abs(boxes[0] - FACE).max() < 12


def test_finder_finds_what_opencv_finds():
    """OpenCV 5.0's FaceDetectorYN with the original file, on the astronaut reduced to 384 px."""
    boxes, scores = find_faces(astronaut())
    assert np.allclose(boxes, [[177.59, 61.51, 272.00, 175.95]], atol=0.05)
    assert np.allclose(scores, [0.93831], atol=1e-4)


@pytest.mark.parametrize("size", [(120, 90), (900, 700)])
def test_finder_finds_a_face_that_fills_the_picture(size):
    close = np.asarray(Image.fromarray(astronaut()[58:180, 172:278]).resize(size[::-1]))
    (box,) = find_faces(close)[0]
    assert np.abs(box / np.tile(size[::-1], 2) - [0.05, 0.08, 0.93, 0.95]).max() < 0.05


def test_second_look_finds_a_small_face(monkeypatch):
    """A face of a fortieth of the picture's side needs the larger copy."""
    scene = np.full((1024, 1024, 3), 90, np.uint8)
    scene[700:820, 100:220] = np.asarray(Image.fromarray(astronaut()).resize((120, 120)))
    (box,) = find_faces(scene)[0]
    assert np.abs(box - (FACE * 120 / 512 + [100, 700, 100, 700])).max() < 5
    monkeypatch.setattr(face_finder, "SEARCH_SIDES", face_finder.SEARCH_SIDES[:1])
    assert len(find_faces(scene)[0]) == 0


def test_finder_does_the_same_in_every_thread():
    """Photographs are decoded in threads, where autograd is on again."""
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(find_faces, [astronaut()] * 4))
    for boxes, scores in found:
        assert np.array_equal(boxes, found[0][0]) and np.array_equal(scores, found[0][1])


@pytest.mark.parametrize("picture", [coffee, chelsea, hubble_deep_field], ids=["coffee", "cat", "galaxies"])
def test_finder_finds_nothing_where_nothing_is(picture):
    assert len(find_faces(picture())[0]) == 0


def test_finder_gives_several_faces_best_first():
    face = astronaut()[:200, 120:320]
    scene = np.full((300, 600, 3), 128, np.uint8)
    scene[50:250, 40:240] = face
    scene[50:150, 400:500] = np.asarray(Image.fromarray(face).resize((100, 100)))
    boxes, scores = find_faces(scene)
    assert len(boxes) == 2
    assert scores[0] >= scores[1]
    assert sorted(int(b[0] // 300) for b in boxes) == [0, 1]


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 400, 3), (20, 20, 3)])
def test_finder_takes_the_smallest_images(shape):
    assert len(find_faces(np.zeros(shape, np.uint8))[0]) == 0


def source(image):
    return next(iter_sources(image)[0])


@pytest.mark.parametrize(
    ("box", "status", "message"),
    [
        ([np.nan] * 4, Status.NO_FACE, "the given box is NaN"),
        ([600, 10, 700, 110], Status.BAD_BOX, "less than a quarter of it lies on the image"),
        ([-300, 10, 40, 200], Status.BAD_BOX, "less than a quarter"),
        ([100, 100, 50, 160], Status.BAD_BOX, "at least 8 px apart"),
        ([100, 100, 103, 103], Status.BAD_BOX, "at least 8 px apart"),
        ([0, 0, np.inf, 50], Status.BAD_BOX, "at least 8 px apart"),
    ],
)
def test_boxes_that_hold_no_face_are_rows_with_a_reason(box, status, message):
    (face,) = faces_of(source(astronaut()), boxes=np.array([box], float))
    assert face.status is status
    assert message in face.message
    assert face.patch is None


def test_landmarks_that_coincide_are_a_bad_box():
    (face,) = faces_of(source(astronaut()), np.array([FACE]), np.full((1, 68, 2), 100.0))
    assert face.status is Status.BAD_BOX
    assert "coincide" in face.message


def test_given_landmarks_fix_the_alignment():
    landmarks = landmarks_at(TEMPLATE * 0.9 + [170, 60])[None]
    faces = faces_of(source(astronaut()), landmarks=landmarks)
    batch = align_faces(faces, random_models().extractor, torch.device("cpu"))
    assert np.allclose(batch.similarity, align_to_template(landmarks))


def test_alignment_ignores_landmarks_that_are_none():
    """Untrained landmarks lie all over the place: the loose crop stays."""
    faces = faces_of(source(astronaut()), np.array([FACE]))
    batch = align_faces(faces, random_models().extractor, torch.device("cpu"))
    assert np.allclose(batch.similarity[0], box_to_similarity(FACE))


class KnowingExtractor:
    """Knows where the face lies in the photograph, and sees it as far off as it is told, look by look.

    Args:
        first: the similarity of the first crop.
        true: the similarity that alignment should find.
        off: px by which the landmarks of each look lie to the right of the truth; 0 in the last one, which is
            at the mirror image.
    """

    def __init__(self, first, true, off):
        self.similarity, self.true, self.off, self.looks = first, true, [*off, 0], 0

    def __call__(self, pixels):
        points = transform(self.similarity, transform(invert(self.true), TEMPLATE))
        points[:, 0] += self.off[self.looks]
        # align_to_template takes these points to the template: the next crop is this far off, the other way.
        seen = torch.from_numpy(landmarks_at(points)).float().expand(len(pixels), -1, -1)
        in_photo = transform(invert(self.similarity), landmarks_at(points))
        self.similarity = align_to_template(in_photo[None])[0]
        self.looks += 1
        rows = [torch.full((len(pixels), n), float(self.looks)) for n in (256, 96, 16)]
        return ExtractorOutput(rows[0], rows[1], seen, rows[2])


@pytest.mark.parametrize(
    ("off", "looks"),
    [
        ([0, 0, 0], 2),  # the second look confirms the crop
        ([3, 0, 0], 3),  # the second look moves it, the third is the last
        ([0.4, 0, 0], 2),  # a movement below SETTLED is not worth a third look
    ],
)
def test_alignment_looks_until_the_crop_stays(off, looks):
    box = np.array([150.0, 80.0, 300.0, 230.0])
    true = similarity(0.8, -12, -100, -20)
    extractor = KnowingExtractor(box_to_similarity(box), true, off)
    (face,) = faces_of(source(astronaut()), box[None])
    batch = align_faces([face], extractor, torch.device("cpu"))
    assert extractor.looks == looks + 1
    # What was seen last, but for the mirror image, is the result, and belongs to the crop it was seen in.
    assert (batch.seen.features == looks).all()
    assert np.abs(transform(batch.similarity[0], transform(invert(true), TEMPLATE)) - TEMPLATE).max() < 1


def test_a_face_and_its_mirror_image_are_read_alike():
    space, extractor = load_parameter_space(), random_models().extractor
    crops = torch.randint(
        256, (3, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    there, back = look(extractor, crops).parameters, look(extractor, crops.flip(3)).parameters
    read, read_mirrored = both_ways(there, back), both_ways(back, there)
    assert torch.allclose(space.mirrored(read), read_mirrored, atol=1e-6)
    assert not torch.allclose(there, space.mirrored(back), atol=1e-3)


def test_landmarks_of_a_mirror_image_change_sides():
    points = torch.rand(2, 68, 2) * 127
    mirrored = mirrored_points(points)
    assert torch.allclose(mirrored_points(mirrored), points)
    assert torch.equal(mirrored[..., 1].sort(1).values, points[..., 1].sort(1).values)
    # The face model's own, which is symmetric: of its mirror image they are where they were.
    rest = torch.from_numpy(load_models().landmark_model.rest[None, :, :2]).float()
    on_crop = 63.5 + 40 * rest * torch.tensor([1, -1])
    assert torch.allclose(mirrored_points(on_crop), on_crop, atol=0.5)


def test_alignment_reads_the_last_crop_and_its_mirror_image():
    extractor = random_models().extractor
    good, nobody = (faces_of(source(astronaut()), box[None])[0] for box in (FACE, np.full(4, np.nan)))
    batch = align_faces([nobody, good], extractor, torch.device("cpu"))
    pixels = torch.tensor(good.patch.crop(batch.similarity[1])).permute(2, 0, 1)[None]
    there, back = (look(extractor, x) for x in (pixels, pixels.flip(3)))
    # Another memory layout may change the last digit.
    expected = both_ways(there.parameters, back.parameters)
    assert torch.allclose(batch.seen.parameters[1:], expected, atol=1e-6)
    expected = (there.landmarks + mirrored_points(back.landmarks)) / 2
    assert torch.allclose(batch.seen.landmarks[1:], expected, atol=1e-4)
    assert not batch.seen.parameters[0].any()


def test_a_settled_face_is_not_looked_at_again_with_the_others():
    box = np.array([150.0, 80.0, 300.0, 230.0])
    landmarks = transform(invert(similarity(0.8, -12, -100, -20)), landmarks_at(TEMPLATE))
    given = faces_of(source(astronaut()), landmarks=landmarks[None])
    loose = faces_of(source(astronaut()), box[None])
    nobody = faces_of(source(astronaut()), np.full((1, 4), np.nan))
    extractor = KnowingExtractor(box_to_similarity(box), similarity(0.8, -12, -100, -20), [0, 0, 0])
    batch = align_faces([*given, *nobody, *loose], extractor, torch.device("cpu"))
    assert batch.seen.features[:, 0].tolist() == [1, 0, 2]
    assert batch.valid.tolist() == [True, False, True]


def test_boxes_come_in_many_forms():
    one = np.array([1.0, 2.0, 30.0, 40.0])

    def given(values, images):
        iterator = iter_given(values, (4,), images, "boxes")
        return [next(iterator) for _ in range(images)]

    assert given(None, 2) == [None, None]
    assert given(one, 1)[0].shape == (1, 4)
    assert given(one.tolist(), 1)[0].shape == (1, 4)
    assert given(np.stack([one] * 3), 1)[0].shape == (3, 4)
    assert [b.shape for b in given(np.stack([one] * 3), 3)] == [(1, 4)] * 3
    assert [b.shape for b in given([one, one], 2)] == [(1, 4)] * 2
    assert [b.shape for b in given(torch.ones(2, 4), 2)] == [(1, 4)] * 2
    several, none, empty = given([np.stack([one, one]), None, []], 3)
    assert several.shape == (2, 4)
    assert none is None
    assert empty.shape == (0, 4)


@pytest.mark.parametrize(
    ("values", "images", "message"),
    [
        (np.zeros((2, 4)), 3, r"boxes: expected one entry per image \(3\), got 2"),
        (np.zeros((3, 4)), 2, r"boxes: expected one entry per image \(2\), got 3"),
        (np.zeros((2, 5)), 2, r"boxes: expected \[N, 4\] .* got shape \[2, 5\]"),
        ([np.zeros((1, 4)), np.zeros((1, 3))], 2, r"boxes: expected .* image 1 has shape \[1, 3\]"),
        ([[1, 2, 3, 4], "box"], 2, r"boxes: expected .* image 1 has no array of numbers"),
        (7, 2, r"boxes: expected .* got shape \[\]"),
    ],
)
def test_wrong_boxes_are_named(values, images, message):
    with pytest.raises(ValueError, match=message):
        next(iter_given(values, (4,), images, "boxes"))
