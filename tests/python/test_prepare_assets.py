"""The asset builder on a tiny synthetic checkout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from python import prepare_assets

PARTS = {"face": 3, "teeth": 7}
NEUTRAL = np.array(
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, -1), (1, 0, -1), (1, 1, -1), (0, 1, -1)], float
)


def _write(path: Path, vertices: np.ndarray) -> None:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", "usemtl M_Face", "f 1/1 2/2 3/3 4/4"]
    lines += ["usemtl M_Teeth", "f 5/1/1 6/2/1 7/3/1", "f 5/4 7/3 8/2"]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    _write(folder / "generic_neutral_mesh.obj", NEUTRAL)
    for i in range(2):
        _write(folder / f"identity{i:03d}.obj", NEUTRAL + np.array([0.1 * (i + 1), 0, 0]))
    for name in ("jawOpen", "cheekRaiser_L"):
        _write(folder / f"{name}.obj", NEUTRAL + np.array([0, -0.5, 0]))
    indices = {"expressions": ["jawOpen"], "idx_to_landmark_verts": [0] * 68}
    (folder / "vertex_indices.json").write_text(json.dumps(indices))
    return tmp_path


def test_face_model_of_a_tiny_checkout(checkout: Path) -> None:
    z = prepare_assets.build_face_model(checkout, PARTS, n_identity=2)
    np.testing.assert_array_equal(z["neutral"], NEUTRAL.astype(np.float32))
    np.testing.assert_allclose(z["identity"][1] * z["delta_step"], np.tile([0.2, 0, 0], (8, 1)), atol=1e-3)
    assert z["expression_names"].tolist() == ["jawOpen", "cheekRaiser_L"]
    np.testing.assert_allclose(z["expression"][:, 0, 1] * z["delta_step"], -0.5, atol=1e-3)
    assert z["triangles"].tolist() == [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]
    assert z["material_names"][z["triangle_material"]].tolist() == ["M_Face"] * 2 + ["M_Teeth"] * 2
    assert z["part_names"][z["vertex_part"]].tolist() == ["face"] * 4 + ["teeth"] * 4
    # Vertex 4 has two texture coordinates: the lowest-numbered one counts.
    np.testing.assert_array_equal(z["vertex_uv"][4], [0, 0])
    assert z["polygons"].shape == (3, 4)
    assert z["polygons"][1, 3] == -1


def test_missing_files_are_named(checkout: Path) -> None:
    (checkout / "FaceXModel" / "identity001.obj").unlink()
    with pytest.raises(FileNotFoundError, match=r"identity001\.obj"):
        prepare_assets.build_face_model(checkout, PARTS, n_identity=2)
    with pytest.raises(FileNotFoundError, match="checkout"):
        prepare_assets.build_face_model(checkout / "nowhere")


def test_another_mesh_is_refused(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_assets.main(["face-model", str(checkout), str(checkout / "out.npz")]) == 2
    assert "expected 26719 vertices, got 8" in capsys.readouterr().err
    assert not (checkout / "out.npz").exists()


def test_textures_are_packed_with_their_licence(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="textures are read with opencv-python-headless")
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[..., 2] = 200  # red in OpenCV's order
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    with pytest.raises(FileNotFoundError, match=r"LICENSE\.txt"):
        prepare_assets.pack_textures(tmp_path)
    (tmp_path / "LICENSE.txt").write_text("CC BY 4.0")
    output = tmp_path / "skins.npz"
    assert prepare_assets.main(["textures", str(tmp_path), str(output)]) == 0
    with np.load(output) as z:
        assert z["tex"].shape == (1, 256, 256, 3)
        assert z["tex"][0, 0, 0].tolist() == [200, 0, 0]
        assert (z["mask"] == 255).all()
        assert str(z["license"]) == "CC BY 4.0"
    cv2.imwrite(str(tmp_path / "b.png"), picture[:100])
    with pytest.raises(ValueError, match="256 x 100"):
        prepare_assets.pack_textures(tmp_path)
