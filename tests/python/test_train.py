"""The training scripts on a tiny made-up data set: they run, resume, export weights, and augment truly."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from genet_ext.models import load_models
from genet_ext.parameters import load_parameter_space
from python.render.dataset import FORMAT
from python.train import augment
from python.train.common import CONFIGS, Trainer, one_cycle
from python.train.crops import Photographs, batches, load_renders

COUNT = 12


@pytest.fixture(scope="session")
def renders(tmp_path_factory):
    """A folder in python/render's format, of smooth random pictures."""
    folder = tmp_path_factory.mktemp("renders")
    shard = folder / "shard-00000"
    shard.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"format": FORMAT, "count": COUNT}))
    rng = np.random.default_rng(0)
    space = load_parameter_space()
    theta = rng.random((COUNT, space.size)).astype(np.float32)
    arrays = {
        "images": np.repeat(np.repeat(rng.integers(0, 255, (COUNT, 24, 24, 4), np.uint8), 8, 1), 8, 2),
        "theta": theta,
        "landmarks": rng.uniform(50, 140, (COUNT, 68, 2)).astype(np.float32),
        "dense": rng.uniform(50, 140, (COUNT, 20, 2)).astype(np.float32),
        "dense_visible": rng.integers(0, 2, (COUNT, 20), np.uint8),
        "appearance": rng.standard_normal((COUNT, 16)).astype(np.float32),
        "person": np.full(COUNT, -1, np.int16),
        "identity": np.arange(COUNT, dtype=np.int32),
        "seed": np.arange(COUNT, dtype=np.uint32),
        "index": np.arange(COUNT, dtype=np.int64),
    }
    for name, array in arrays.items():
        np.save(shard / f"{name}.npy", array)
    return folder


def run(script, *arguments):
    command = [sys.executable, "-m", f"python.train.{script}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scripts_train_resume_and_export(renders, tmp_path):
    common = ["--data", renders, "--out", tmp_path, "--config", CONFIGS / "tiny.toml"]
    common += ["--device", "cpu", "--workers", "0"]
    run("train_extractor", *common)
    assert "resumed from step 4 of 4" in run("train_extractor", *common)
    run("train_image_generator", *common)
    said = run("distill_features", *common, "--held-out", renders, "--extractor", tmp_path)
    assert "held-out share" in said
    models = load_models(folder=tmp_path)
    theta = models.extractor(torch.rand(2, 3, 128, 128)).parameters
    assert bool(torch.isfinite(models.feature_generator(theta)).all())
    steps = [json.loads(line)["step"] for line in (tmp_path / "extractor.log.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    config = {"steps": 8, "lr": 0.05, "weight_decay": 0.0}
    truth = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))

    def train(folder, stop):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 5, bias=False)
        trainer = Trainer(net, folder, "net", config, seed=7)
        while trainer.step < stop:
            x = torch.randn(16, 3, generator=torch.Generator().manual_seed(trainer.step))
            trainer.update((net(x) - x @ truth.T).square().mean())
        trainer.save()
        return net.weight.detach(), trainer.average["weight"]

    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train(tmp_path / "whole", 8)
    train(tmp_path / "parts", 3)
    parts = train(tmp_path / "parts", 8)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_learning_rate_rises_and_falls():
    assert one_cycle(0.0, 0.1) < 0.05
    assert one_cycle(0.1, 0.1) == pytest.approx(1.0)
    assert one_cycle(1.0, 0.1) == pytest.approx(0.0)


def test_points_follow_the_crop():
    image = np.zeros((192, 192, 4), np.uint8)
    image[79:82, 99:102] = 255  # a dot around (100, 80)
    rng = np.random.default_rng(0)
    for _ in range(8):
        frame = augment.crop_frame(augment.LOOSE_BOX, rng)
        bright = frame.cut(image)[..., 0].astype(float)
        rows, columns = np.mgrid[:128, :128]
        centroid = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
        np.testing.assert_allclose(frame.points(np.array([100.0, 80.0])), centroid, atol=0.15)


def test_roll_label_follows_the_rotation():
    """Positive roll tilts the crown to the image's left: an upright axis must lean left by the label."""
    rng = np.random.default_rng(1)
    leans = []
    for _ in range(16):
        frame = augment.crop_frame(augment.LOOSE_BOX, rng)
        crown, chin = frame.points(np.array([[96.0, 60.0], [96.0, 130.0]]))
        up = crown - chin
        leans.append(np.arctan2(-up[0], -up[1]))
        assert frame.theta(np.zeros(96))[augment.ROLL] == pytest.approx(leans[-1], abs=1e-6)
    assert np.abs(leans).max() > 0.1


def test_the_aligned_crop_is_the_middle_of_the_render():
    image = np.random.default_rng(0).integers(0, 255, (192, 192, 4), np.uint8)
    frame = augment.crop_frame(augment.ALIGNED, np.random.default_rng(0))
    np.testing.assert_array_equal(frame.cut(image), image[32:160, 32:160])


def test_photographs_depend_on_the_seed_alone():
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 255, (128, 128, 4), np.uint8)
    other = rng.integers(0, 255, (192, 192, 4), np.uint8)
    pictures = [augment.photograph(rgba, other, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert pictures[0].shape == (128, 128, 3)
    assert pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_composite_is_exact_at_full_and_no_coverage():
    rgba = np.random.default_rng(0).integers(0, 255, (4, 4, 4), np.uint8)
    rgba[:2, :, 3], rgba[2:, :, 3] = 255, 0
    out = augment.composite(rgba, 128)
    np.testing.assert_array_equal(out[:2], rgba[:2, :, :3])
    assert (out[2:] == 128).all()


def test_batches_start_where_a_resumed_run_needs_them(renders):
    examples = Photographs(load_renders(renders), 12, [(1.0, augment.SECOND_PASS)], seed=3)
    whole = list(batches(examples, 4, "cpu", workers=0))
    rest = list(batches(examples, 4, "cpu", workers=0, first=1))
    assert len(whole) == 3
    assert torch.equal(whole[1]["pixels"], rest[0]["pixels"])
    assert torch.equal(whole[2]["theta"], rest[1]["theta"])
