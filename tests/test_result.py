"""The table of a fit: scales, units, signs, files and pictures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from photographs import ASTRONAUT_BOX as BOX
from PIL import Image
from skimage.data import astronaut
from tiny_models import tiny_models

from genet_ext import Status, fit
from genet_ext.plotting import in_colours_of

PY_FEAT_AUS = [f"{n:02}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)]


@pytest.fixture(scope="module")
def result():
    """Three rows: a face, none, and the same face turned by 20 degrees."""
    photo = astronaut()
    turned = np.asarray(Image.fromarray(photo).rotate(20, Image.Resampling.BICUBIC, center=(224, 117)))
    with pytest.warns(UserWarning, match="1 of 3"):
        return fit(
            [photo, np.zeros((9, 9, 3), np.uint8), turned],
            boxes=[[BOX], [], [BOX]],
            models=tiny_models(3),
            iterations=20,
            progress=False,
        )


def test_aus_are_py_feats_columns_on_two_scales(result):
    assert list(result.aus.columns) == [f"AU{n}" for n in PY_FEAT_AUS]
    known = result.aus.drop(columns="AU11").iloc[[0, 2]]
    assert ((known >= 0) & (known <= 1)).all(axis=None)
    assert result.aus["AU11"].isna().all()  # the face model has no parameter for it
    pd.testing.assert_frame_equal(result.intensity, result.aus * 5)


def test_pose_is_in_degrees_and_adds_what_alignment_took_out(result):
    pose = result.pose
    assert list(pose.columns) == ["pitch_deg", "yaw_deg", "roll_deg"]
    assert np.allclose(pose.iloc[0, :2], np.degrees(result.theta[0, :2]))
    # Turned counter-clockwise, the crown points to the image's left: positive roll.
    tilted = result[2]
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    tilted.similarity[0] = [[c, -s, 0], [s, c, 0]]
    assert np.isclose(tilted.pose["roll_deg"][0], np.degrees(tilted.theta[0, 2]) + 20)


def test_parameters_by_name(result):
    assert np.array_equal(
        result.expression["AU12_L"][0], result.theta[0, result.models.space.index("AU12_L")]
    )
    assert np.array_equal(result.identity["id_00"][0], result.theta[0, result.models.space.index("id_00")])
    assert len(result.expression.columns) + len(result.identity.columns) + 3 == result.theta.shape[1]


def test_csv_round_trip(result, tmp_path):
    result.to_csv(tmp_path / "fit.csv")
    back = pd.read_csv(tmp_path / "fit.csv")
    table = result.to_frame()
    assert list(back.columns) == list(table.columns)
    numbers = table.select_dtypes("number").columns
    for name in numbers:
        written, read = table[name].to_numpy(), back[name].to_numpy()
        assert np.array_equal(written, read.astype(written.dtype), equal_nan=True), name
    assert back["status"].tolist() == [str(status) for status in result.status]
    assert back["input"].tolist() == result.source


def test_only_aus_have_au_in_their_name(result):
    """py-feat's read_feat takes every column with "AU" in its name for an Action Unit."""
    named = [name for name in result.to_frame().columns if "AU" in name]
    assert named == [f"AU{n}" for n in PY_FEAT_AUS]


def test_rows_are_taken_like_a_lists(result):
    assert len(result) == 3
    assert len(result[0]) == len(result[-1]) == len(result[:1]) == 1
    assert result[[2, 0]].image.tolist() == [2, 0]
    assert result[result.fitted].image.tolist() == [0, 2]
    assert [row.image[0] for row in result] == [0, 1, 2]
    with pytest.raises(IndexError):
        result[3]


def test_repr_says_what_there_is(result):
    text = repr(result)
    assert "3 faces in 3 image(s), 1 not fitted" in text
    assert "image 1 #0 no_face: no face found" in text
    assert ".aus [0, 1]" in text
    assert "AU11" not in text


def test_render_is_one_picture_per_face(result):
    pictures = result.render()
    assert pictures.shape == (3, 128, 128, 3)
    assert pictures.dtype == np.uint8
    assert (pictures[1] == 128).all()
    assert np.array_equal(pictures[2], result[2].render()[0])


def test_plot_is_saved(result, tmp_path):
    figure = result.plot(tmp_path / "fit.png")
    with Image.open(tmp_path / "fit.png") as picture:
        assert picture.width > 1000
        assert np.asarray(picture.convert("L")).std() > 20
    assert len(figure.axes) == 9


def test_plot_says_what_it_cannot_draw(result):
    with pytest.raises(ValueError, match="plot: expected 1 to 24 faces, got 0"):
        result[[]].plot()
    lost = fit(astronaut(), boxes=BOX, models=result.models, iterations=1, keep_crops=0, progress=False)
    with pytest.raises(ValueError, match="photograph of face 0 was not kept; fit with keep_crops=1"):
        lost.plot()


def test_quality_is_a_word_for_the_misfit(result):
    assert result.quality[1] == ""
    result = replace(result, misfit=np.array([0.9, np.nan, 9.0]))
    assert result.quality == ["good", "", "doubtful"]
    assert "1 doubtful" in repr(result)
    assert result.to_frame()["quality"].tolist() == ["good", "", "doubtful"]


def test_status_words():
    assert [s.value for s in Status if s.fitted] == ["converged", "max_iterations"]
    assert f"{Status.NO_FACE}" == "no_face"


def test_to_fex(result):
    pytest.importorskip("feat", reason="needs py-feat")
    fex = result.to_fex()
    assert list(fex.aus.columns) == [f"AU{n}" for n in PY_FEAT_AUS]
    assert np.allclose(fex["Pitch"][0], np.radians(result.pose["pitch_deg"][0]))
    assert fex["FaceRectWidth"][0] == BOX[2] - BOX[0]
    assert fex.facepose_columns == ["Pitch", "Roll", "Yaw"]
    assert fex.landmarks.shape == (3, 136)


def test_to_fex_without_py_feat(result):
    try:
        import feat  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"pip install genet-ext\[feat\]"):
            result.to_fex()
    else:
        pytest.skip("py-feat is here")


def test_rendering_is_as_bright_as_the_photograph_half_as_tinted_and_keeps_its_shapes():
    rng = np.random.default_rng(0)
    rendering = rng.integers(100, 140, (128, 128, 3), np.uint8)
    photo = np.full((256, 256, 3), (200, 120, 90), np.uint8)
    out = in_colours_of(photo, rendering)
    assert out.dtype == np.uint8 and out.shape == rendering.shape

    def light(picture):
        return (np.median(picture[54:79, 39:89].reshape(-1, 3), 0) / 255) ** 2.2

    wanted, found, shown = ((np.array((200, 120, 90)) / 255) ** 2.2, light(rendering), light(out))
    luminance = np.array((0.2126, 0.7152, 0.0722))
    assert luminance @ shown == pytest.approx(luminance @ wanted, rel=0.03)
    for one, other in ((0, 1), (1, 2)):
        hues = [colour[one] / colour[other] for colour in (found, shown, wanted)]
        assert hues[1] == pytest.approx(np.sqrt(hues[0] * hues[2]), rel=0.03)
    assert np.corrcoef(out[..., 1].ravel(), rendering[..., 1].ravel())[0, 1] > 0.99
    np.testing.assert_array_equal(in_colours_of(rendering, rendering), rendering)
    assert in_colours_of(photo, np.zeros_like(rendering)).max() == 0
