"""The training scripts on a tiny made-up data set: they run, resume, export loadable weights, and augment truly."""

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
    common = ["--data", renders, "--out", tmp_path, "--config", CONFIGS / "tiny.toml", "--device", "cpu"]
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
            x = torch.randn(16, 3, generator=trainer.generator("cpu"))
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


def dot_image(x, y):
    """A render [1, 192, 192, 4] with a white dot at (x, y)."""
    image = torch.zeros(1, 192, 192, 4, dtype=torch.uint8)
    image[..., 3] = 255
    image[0, y - 1 : y + 2, x - 1 : x + 2, :3] = 255
    return image


@pytest.mark.parametrize("seed", range(4))
def test_points_follow_the_crop(seed):
    x, y = 100, 80
    rng = torch.Generator().manual_seed(seed)
    rgba, _, points = augment.crop(
        dot_image(x, y),
        torch.zeros(1, 96),
        torch.tensor([[[float(x), float(y)]]]),
        [(1.0, augment.LOOSE_BOX)],
        rng,
    )
    bright = rgba[0, 0]
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    centroid = torch.stack([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
    torch.testing.assert_close(points[0, 0], centroid, atol=0.3, rtol=0)


def test_roll_label_follows_the_rotation():
    """Positive roll tilts the crown to the image's left: an upright axis must lean left by the label."""
    rng = torch.Generator().manual_seed(1)
    crown_and_chin = torch.tensor([[[96.0, 60.0], [96.0, 130.0]]]).repeat(16, 1, 1)
    _, theta, points = augment.crop(
        torch.zeros(16, 192, 192, 4, dtype=torch.uint8),
        torch.zeros(16, 96),
        crown_and_chin,
        [(1.0, augment.LOOSE_BOX)],
        rng,
    )
    up = points[:, 0] - points[:, 1]
    lean = torch.atan2(-up[:, 0], -up[:, 1])
    assert float(lean.abs().max()) > 0.1
    torch.testing.assert_close(theta[:, augment.ROLL], lean, atol=1e-5, rtol=0)


def test_photographs_depend_on_the_seed_alone_and_stay_in_range():
    rgba = torch.rand(8, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    first = augment.photograph(rgba, torch.Generator().manual_seed(5))
    again = augment.photograph(rgba, torch.Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert first.shape == (8, 3, 128, 128)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert not torch.equal(first, augment.photograph(rgba, torch.Generator().manual_seed(6)))


def test_compression_without_loss_at_zero_strength_is_identity(monkeypatch):
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(augment, "_chance", lambda x, p, rng: torch.zeros(len(x), 1, 1, 1))
    out = augment._compress(pixels, torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, pixels, atol=1e-5, rtol=0)
