"""The training scripts on a tiny made-up data set: they run, resume, export weights, and augment truly."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_up_renders import save_renders
from safetensors.torch import save_file

from genet_ext.extractors import Extractor
from genet_ext.faces import both_ways, mirrored_points
from genet_ext.landmark_model import COORDINATES
from genet_ext.models import REST_SPREAD, SD_LEVELS, load_models, random_models, read_weights
from genet_ext.parameters import load_parameter_space
from python.evaluate.metrics import normal_reach
from python.evaluate.pictures import load_test_set
from python.render.assets import load_face_model
from python.render.dataset import shard_path
from python.render.renderer import APPEARANCE
from python.train import augment
from python.train.augment import Draw
from python.train.average_weights import BATCH, SEED, averaged, fit_landmark_head
from python.train.calibrate import LEAST_REST, MOST_REST, level_rows, rest_spread, stretches
from python.train.common import CONFIGS, Trainer, export, one_cycle
from python.train.crops import Photographer, ahead, load_renders
from python.train.distill_extractor import LOOKED_AT, Views, drawn, look_at_views
from python.train.landmark_model import NAME, about_the_mean, geometry, measured, precision
from python.train.train_extractor import JITTERS, as_it_runs, outputs_of

COUNT = 12


@pytest.fixture(scope="session")
def renders(tmp_path_factory):
    """A folder in python/render's format, of smooth random pictures."""
    rng = np.random.default_rng(0)
    space = load_parameter_space()
    theta = rng.random((COUNT, space.size)).astype(np.float32)
    fields = {
        "images": np.repeat(np.repeat(rng.integers(0, 255, (COUNT, 24, 24, 4), np.uint8), 8, 1), 8, 2),
        "theta": theta,
        "landmarks": rng.uniform(50, 140, (COUNT, 68, 2)).astype(np.float32),
        "dense": rng.uniform(50, 140, (COUNT, 20, 2)).astype(np.float32),
        "dense_visible": rng.integers(0, 2, (COUNT, 20), np.uint8),
        "appearance": rng.standard_normal((COUNT, 16)).astype(np.float32),
    }
    return save_renders(tmp_path_factory.mktemp("renders"), APPEARANCE, fields)


def run(script, *arguments):
    command = [sys.executable, "-m", f"python.train.{script}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scripts_train_resume_and_export(renders, tmp_path):
    common = ["--data", renders, "--out", tmp_path, "--config", CONFIGS / "tiny.toml"]
    common += ["--device", "cpu"]
    run("train_extractor", *common)
    assert "resumed from step 4 of 4" in run("train_extractor", *common)
    run("train_image_generator", *common)
    at = [tmp_path / f"extractor.average-{step}.safetensors" for step in (2, 4)]
    ends = ["--first", at[0], "--second", at[1], "--share", "0.5", "--batches", "1"]
    run("average_weights", *ends, "--data", renders, "--out", tmp_path)
    said = run("distill_features", *common, "--held-out", renders, "--extractor", tmp_path)
    assert "held-out share" in said
    random_models(0).landmark_model.save(tmp_path / NAME)  # the script that makes it needs the face model
    said = run("calibrate", "--weights", tmp_path, "--held-out", renders, "--device", "cpu")
    assert "misfit limit" in said
    models = load_models(folder=tmp_path)
    theta = models.extractor(torch.rand(2, 3, 128, 128)).parameters
    assert bool(torch.isfinite(models.feature_generator(theta)).all())
    steps = [json.loads(line)["step"] for line in (tmp_path / "extractor.log.jsonl").read_text().splitlines()]
    assert steps == [2, 4]
    assert sorted(file.name for file in tmp_path.glob("*average-*")) == [
        "extractor.average-2.safetensors", "extractor.average-4.safetensors",
    ]  # fmt: skip


def test_an_extractor_learns_from_others(renders, tmp_path):
    teachers = []
    for share, width in (("0.75", 4), ("0.25", 6)):
        path = tmp_path / f"{width}.safetensors"
        export(small_extractor(width).state_dict(), path)
        teachers += ["--teacher", share, path]
    common = ["--data", renders, renders, "--out", tmp_path, "--config", CONFIGS / "tiny.toml"]
    common += ["--start-from", tmp_path / "4.safetensors", "--device", "cpu"]
    run("distill_extractor", *common, *teachers)
    assert "resumed from step 2 of 2" in run("distill_extractor", *common, *teachers)
    before, after = (read_weights(tmp_path / f"{name}.safetensors") for name in ("4", "extractor"))
    assert before.keys() == after.keys()
    assert torch.equal(after["stem.conv.weight"], before["stem.conv.weight"])
    assert not torch.equal(after["hidden.weight"], before["hidden.weight"])
    with pytest.raises(AssertionError, match="expected views made of"):
        run("distill_extractor", *common, *teachers, "--seed", "1")
    with pytest.raises(AssertionError, match=r"shares that sum to 1, got \[0.75\]"):
        run("distill_extractor", *common, *teachers[:3])


def small_extractor(width):
    torch.manual_seed(width)
    net = Extractor(load_parameter_space().size, widths=(width, 5, 6, 7), blocks=(1, 2, 1), fused=False)
    net.eval()
    net.fuse()
    return net


def test_what_is_taught_is_the_teachers_mean_of_both_ways(renders, tmp_path):
    photographers = [Photographer(load_renders(renders), "cpu", seed) for seed in (1, 2)]
    nets = [small_extractor(width) for width in (4, 6)]
    views = look_at_views(photographers, [(0.75, nets[0]), (0.25, nets[1])], LOOKED_AT + 3, tmp_path)
    assert len(views.pixels) == LOOKED_AT + 3
    second = photographers[1].photographs(3, JITTERS, 1)  # the first of the second folder
    torch.testing.assert_close(views.pixels[-3:].float() / 255, second["pixels"])
    assert torch.equal(views.landmarks[-3:], second["landmarks"])
    mirrored = second["pixels"].flip(3)
    with torch.no_grad():
        said = [
            both_ways(*(outputs_of(net, pixels).parameters for pixels in (second["pixels"], mirrored)))
            for net in nets
        ]
    torch.testing.assert_close(views.taught[-3:], 0.75 * said[0] + 0.25 * said[1])
    assert torch.equal(views.true[-3:], second["theta"])
    again = look_at_views(photographers, [], LOOKED_AT + 3, tmp_path)  # read from the files
    assert all(map(torch.equal, again, views))


def test_a_mirrored_view_is_taught_as_the_mirror_image():
    """A pupil that says of mirror images what the teachers say of faces in mirrors has nothing to learn."""
    space, rng = load_parameter_space(), torch.Generator().manual_seed(0)
    views = Views(
        torch.randint(256, (1, 3, 8, 8), generator=rng, dtype=torch.uint8),
        torch.rand(1, space.size, generator=rng),
        torch.rand(1, space.size, generator=rng),
        torch.rand(1, 68, 2, generator=rng) * 127,
    )
    seen = drawn(views, 64, seed=0, step=0)
    turned = (seen.pixels != views.pixels).flatten(1).any(1)
    assert 16 < int(turned.sum()) < 48
    assert torch.equal(seen.pixels[turned][0], views.pixels[0].flip(2))
    torch.testing.assert_close(seen.taught[turned][0], space.mirrored(views.taught[0]))
    torch.testing.assert_close(seen.true[turned][0], space.mirrored(views.true[0]))
    torch.testing.assert_close(seen.landmarks[turned][0], mirrored_points(views.landmarks)[0])
    assert torch.equal(seen.taught[~turned][0], views.taught[0])


@pytest.mark.parametrize(
    ("widths", "blocks", "fused"), [((4, 5, 6, 7), (1, 2, 3), True), ((3, 3, 4, 4), (2, 1, 1), False)]
)
def test_an_extractors_size_is_seen_in_its_weights(widths, blocks, fused):
    torch.manual_seed(0)
    net = Extractor(9, dense=5, widths=widths, blocks=blocks, fused=fused).eval()
    found = as_it_runs(net.state_dict())
    pixels = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(found(pixels), net(pixels))


def test_frozen_parts_stay_as_they_were(renders, tmp_path):
    net = Extractor(load_parameter_space().size)
    export(net.state_dict(), tmp_path / "start.safetensors")
    config = (CONFIGS / "tiny.toml").read_text()
    config = config.replace("[extractor]", '[extractor]\nfrozen = ["stem", "down.0"]', 1)
    (tmp_path / "frozen.toml").write_text(config)
    command = ["--data", renders, "--out", tmp_path, "--config", tmp_path / "frozen.toml", "--device", "cpu"]
    command += ["--start-from", tmp_path / "start.safetensors"]
    run("train_extractor", *command)
    assert "resumed from step 4 of 4" in run("train_extractor", *command)
    before, after = (read_weights(tmp_path / f"{name}.safetensors") for name in ("start", "extractor"))
    for name in ("stem.conv.weight", "stem.conv.bias", "down.0.conv.weight"):
        assert torch.equal(before[name], after[name])
    for name in ("stem2.conv.weight", "down.1.conv.weight", "parameters_head.weight"):
        assert not torch.equal(before[name], after[name])


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


def test_a_budget_hurries_the_schedule_and_counts_earlier_runs(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("python.train.common.time.monotonic", lambda: clock[0])
    config = {"steps": 1000, "lr": 0.05, "weight_decay": 0.0}
    net = torch.nn.Linear(3, 5)

    def trainer():
        return Trainer(net, tmp_path, "net", config, seed=0, budget=40)

    first = trainer()
    clock[0] += 10
    first.update(net(torch.ones(2, 3)).sum())
    assert first.progress == pytest.approx(0.25)
    first.save()
    clock[0] += 500  # between two runs
    second = trainer()
    assert (second.step, second.progress) == (1, pytest.approx(0.25))
    clock[0] += 29
    assert not second.done
    clock[0] += 1
    assert second.done


def test_learning_rate_rises_and_falls():
    assert one_cycle(0.0, 0.1) < 0.05
    assert one_cycle(0.1, 0.1) == pytest.approx(1.0)
    assert one_cycle(1.0, 0.1) == pytest.approx(0.0)


def frames(jitter, count, seed=0):
    return augment.crop_frames([(1.0, jitter)], Draw(count, torch.Generator().manual_seed(seed)))


def test_points_follow_the_crop():
    images = torch.zeros(8, 4, 192, 192)
    images[:, :, 79:82, 99:102] = 1  # a dot around (100, 80)
    cut = frames(augment.LOOSE_BOX, 8)
    bright = cut.cut(images)[:, 0]
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    mass = bright.sum((1, 2))
    centroid = torch.stack([(bright * columns).sum((1, 2)), (bright * rows).sum((1, 2))], 1) / mass[:, None]
    points = cut.points(torch.tensor([100.0, 80.0]).expand(8, 1, 2))[:, 0]
    torch.testing.assert_close(points, centroid, rtol=0, atol=0.15)


def test_roll_label_follows_the_rotation():
    """Positive roll tilts the crown to the image's left: an upright axis must lean left by the label."""
    cut = frames(augment.LOOSE_BOX, 16, seed=1)
    axis = cut.points(torch.tensor([[96.0, 60.0], [96.0, 130.0]]).expand(16, 2, 2))
    up = axis[:, 0] - axis[:, 1]
    leans = torch.atan2(-up[:, 0], -up[:, 1])
    torch.testing.assert_close(cut.theta(torch.zeros(16, 96))[:, augment.ROLL], leans, rtol=0, atol=1e-5)
    assert leans.abs().max() > 0.1


def test_the_aligned_crop_is_the_middle_of_the_render():
    images = torch.rand(2, 4, 192, 192, generator=torch.Generator().manual_seed(0))
    cut = frames(augment.ALIGNED, 2).cut(images)
    torch.testing.assert_close(cut, images[:, :, 32:160, 32:160], rtol=0, atol=1e-4)


def test_jitters_are_mixed_by_their_shares():
    mixed = augment.crop_frames(
        [(0.75, augment.ALIGNED), (0.25, augment.LOOSE_BOX)], Draw(4000, torch.Generator().manual_seed(0))
    )
    assert (mixed.angle != 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_photographs_depend_on_the_seed_alone():
    random = torch.Generator().manual_seed(0)
    rgba, others = torch.rand(3, 4, 128, 128, generator=random), torch.rand(3, 4, 192, 192, generator=random)
    pictures = [
        augment.photographs(rgba, others, Draw(3, torch.Generator().manual_seed(seed))) for seed in (5, 5, 6)
    ]
    assert pictures[0].shape == (3, 3, 128, 128)
    assert torch.equal((pictures[0] * 255).round() / 255, pictures[0])
    assert 0 <= pictures[0].min() < pictures[0].max() <= 1
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_a_picture_does_not_depend_on_what_happens_to_its_neighbours():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 32, 32, generator=random)
    for happens in ([0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]):
        chosen = torch.tensor(happens, dtype=torch.bool).reshape(-1, 1, 1, 1)
        out = augment._changed(images, chosen, lambda rows: 1 - images[rows])
        assert torch.equal(out, torch.where(chosen, 1 - images, images))


def test_composite_is_exact_at_full_and_no_coverage():
    rgba = torch.rand(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    rgba[:, 3, :2], rgba[:, 3, 2:] = 1, 0
    out = augment.composite(rgba, 0.5)
    assert torch.equal(out[:, :, :2], rgba[:, :3, :2])
    assert bool((out[:, :, 2:] == 0.5).all())


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_jpeg_is_as_lossy_as_libjpeg(quality):
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 12, generator=random)
    image = torch.nn.functional.interpolate(coarse, (96, 96), mode="bicubic").clamp(0, 1)
    image = ((image + 0.05 * torch.randn(1, 3, 96, 96, generator=random)).clamp(0, 1) * 255).round() / 255
    ours = augment.jpeg(image, torch.full((1, 1, 1, 1), float(quality)))
    pixels = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    theirs = torch.from_numpy(cv2.imdecode(file, 1)[..., ::-1] / 255.0).permute(2, 0, 1).float()
    lost = (theirs - image[0]).abs().mean().item()
    assert (ours[0] - image[0]).abs().mean().item() == pytest.approx(lost, rel=0.1)
    assert (ours[0] - theirs).abs().mean().item() < 0.35 * lost


def test_batches_depend_on_their_number_alone(renders):
    jitters = [(1.0, augment.SECOND_PASS)]
    first = Photographer(load_renders(renders), "cpu", seed=3)
    sixth = first.photographs(4, jitters, 5)
    again = Photographer(load_renders(renders), "cpu", seed=3).photographs(4, jitters, 5)
    assert all(torch.equal(sixth[name], again[name]) for name in sixth)
    assert not torch.equal(first.photographs(4, jitters, 6)["pixels"], sixth["pixels"])
    other = Photographer(load_renders(renders), "cpu", seed=4).photographs(4, jitters, 5)
    assert not torch.equal(other["pixels"], sixth["pixels"])


def test_renders_are_taken_up_as_they_come(renders, tmp_path):
    """Shards appear in any order; none that is used changes its place."""
    shutil.copytree(renders, tmp_path / "r")
    described = tmp_path / "r" / "dataset.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"count": 3 * COUNT}))
    first = shard_path(tmp_path / "r", 0)
    photographer = Photographer(load_renders(tmp_path / "r"), "cpu", seed=3)
    before = photographer.photographs(4, [(1.0, augment.ALIGNED)], 0)
    shutil.copytree(first, shard_path(tmp_path / "r", 2))
    photographer.take_up()
    assert len(photographer.renders) == COUNT, "the second shard is missing still"
    again = photographer.photographs(4, [(1.0, augment.ALIGNED)], 0)
    assert all(torch.equal(again[name], before[name]) for name in before)
    shutil.copytree(first, shard_path(tmp_path / "r", 1))
    photographer.take_up()
    assert photographer.renders.complete
    seen = torch.cat([b["theta"] for b in photographer.in_order(8, [(1.0, augment.ALIGNED)], views=1)])
    assert torch.equal(seen, torch.from_numpy(photographer.renders.theta))
    assert len(seen) == 3 * COUNT


def test_batches_are_made_in_order():
    batches = ahead(lambda number: {"number": torch.tensor(number)}, 5, torch.device("cpu"))
    assert [int(batch["number"]) for batch in itertools.islice(batches, 3)] == [5, 6, 7]


@pytest.mark.cuda
def test_batches_made_ahead_on_a_gpu_are_those_made_at_once(renders):
    photographer = Photographer(load_renders(renders), "cuda", seed=3)

    def photographs(number):
        return photographer.photographs(8, [(1.0, augment.LOOSE_BOX)], number)

    for number, batch in zip(range(3, 9), ahead(photographs, 3, photographer.device), strict=False):
        alone = photographs(number)
        assert all(torch.equal(batch[name], alone[name]) for name in alone)


def test_every_render_is_shown_in_order(renders):
    photographer = Photographer(load_renders(renders), "cpu", seed=0)
    batches = list(photographer.in_order(5, [(1.0, augment.ALIGNED)], views=2))
    assert [len(batch["theta"]) for batch in batches] == [5, 5, 5, 5, 4]
    theta = torch.cat([batch["theta"] for batch in batches])
    truth = torch.from_numpy(photographer.renders.theta)
    assert torch.equal(theta, torch.cat([truth, truth]))


def test_stretches_cover_the_truths_whatever_the_estimate():
    rng = np.random.default_rng(0)
    estimate = rng.uniform(-0.3, 1.1, (20_000, 3))
    # Deviations that are right at rest, three times too small for strong AUs, and half as large for one AU.
    too_small = np.where(estimate < 0.15, 1.0, 3.0) * [1.0, 1.0, 0.5]
    reach = abs(rng.normal(0, 1, estimate.shape)) * too_small
    by_level, by_au = stretches(reach, estimate)
    after = reach / (by_au * np.interp(estimate, SD_LEVELS, by_level))
    for rows in level_rows(estimate)[1:]:
        assert 0.94 < (after[rows] <= normal_reach(0.95)).mean() < 0.96
    assert by_level[-1] > 2 * by_level[0]
    assert by_au[2] < 0.6 * by_au[0]


def test_rest_spread_is_that_of_neutral_faces():
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(4000)[:, None] % 2, rng.random((4000, 4)), 0.0)
    estimate = truth + 0.5  # of faces that move: not to be looked at
    estimate[::2] = abs(rng.normal(0, [0.07, 0.001, 0.9, 0.1], (2000, 4)))
    estimate[:, 3] = np.nan  # not expressible
    spread = rest_spread(truth, estimate)
    assert 0.13 < spread[0] < 0.15
    assert spread[1:].tolist() == [LEAST_REST, MOST_REST, LEAST_REST]
    assert (rest_spread(truth[1::2], estimate[1::2]) == REST_SPREAD).all(), "no neutral faces, no figure"


def test_stretches_of_few_faces_stay_near_one():
    estimate = np.full((3, 1), 0.5)
    _, by_au = stretches(np.full((3, 1), 30.0), estimate)
    assert 0.7 < by_au[0] < 1.5


def test_landmark_noise_is_what_is_left_about_each_person():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 30)
    scatter = rng.normal(size=(COORDINATES, COORDINATES)) / np.sqrt(COORDINATES)
    noise = rng.normal(size=(len(person), COORDINATES)) @ scatter
    off = about_the_mean(noise + 5 * rng.normal(size=(40, COORDINATES))[person], person)
    assert np.abs(off.reshape(40, 30, -1).mean(1)).max() < 1e-12
    covariance = scatter.T @ scatter
    floor = 0.5 * covariance.trace() / COORDINATES * np.eye(COORDINATES)
    assert np.allclose(np.linalg.inv(precision(off)), covariance + floor, atol=0.25)


def test_landmark_noise_is_measured_on_renders(renders):
    models = random_models(0)
    test = replace(load_test_set(renders), person=np.arange(COUNT) // 4)
    found = measured(models, test)
    assert np.array_equal(found.rest, models.landmark_model.rest)
    assert np.linalg.eigvalsh(found.precision).min() > 0
    assert not np.allclose(found.precision, models.landmark_model.precision)


@pytest.mark.skipif("GENET_ASSETS" not in os.environ, reason="needs GENET_ASSETS")
def test_shipped_landmarks_are_those_of_the_face_model():
    expected = geometry(load_face_model(Path(os.environ["GENET_ASSETS"]) / "ict_facekit.npz"))
    shipped = load_models().landmark_model
    for name in ("rest", "identity", "expression"):
        assert np.allclose(getattr(shipped, name), getattr(expected, name), atol=1e-6), name
    assert np.linalg.eigvalsh(shipped.precision).min() > 0


def test_averaged_weights_lie_between_the_two():
    torch.manual_seed(0)
    first, second = (Extractor(load_parameter_space().size, dense=3, fused=False) for _ in range(2))
    for norm in (first.stem.norm, second.stem.norm):
        norm.running_var.uniform_(0.5, 2.0)
    weights = [{k: v.float() for k, v in net.state_dict().items()} for net in (first, second)]
    pixels = torch.rand(2, 3, 128, 128)
    for share, end in ((0.0, first), (1.0, second)):
        net = averaged(*weights, share)
        with torch.no_grad():
            torch.testing.assert_close(net(pixels).parameters, end.eval()(pixels).parameters)
    half = averaged(*weights, 0.25)
    middle = weights[0]["embed.weight"].lerp(weights[1]["embed.weight"], 0.25)
    assert torch.equal(half.embed.weight, middle)
    assert half.dense is None
    fused = [averaged(*weights, share).state_dict() for share in (0.0, 1.0)]
    assert torch.equal(averaged(*fused, 0.25).embed.weight, middle), "without norms, too"


def test_the_landmark_head_is_fitted_to_the_renders(renders):
    torch.manual_seed(0)
    net = Extractor(load_parameter_space().size).eval()
    photographer = Photographer(load_renders(renders), "cpu", SEED)
    parameters = net(torch.ones(1, 3, 128, 128)).parameters
    fit_landmark_head(net, photographer, batches=3)
    assert torch.equal(net(torch.ones(1, 3, 128, 128)).parameters, parameters), "nothing else changes"
    batch = photographer.photographs(BATCH, JITTERS, 1)
    with torch.no_grad():
        left = (net(batch["pixels"]).landmarks - batch["landmarks"]).square().mean()
    constant = (batch["landmarks"] - batch["landmarks"].mean(0)).square().mean()
    assert left < 0.7 * constant


@pytest.mark.parametrize(
    ("share", "shape", "said"),
    [
        ("1.5", (2, 2), "expected a number from 0 to 1"),
        ("0.5", (3, 2), "got others: w"),
    ],
)
def test_averaging_refuses_what_does_not_fit(tmp_path, share, shape, said):
    for name, size in (("first", (2, 2)), ("second", shape)):
        save_file({"w": torch.zeros(size)}, tmp_path / f"{name}.safetensors")
    files = ["--first", tmp_path / "first.safetensors", "--second", tmp_path / "second.safetensors"]
    with pytest.raises(AssertionError, match=said):
        run("average_weights", *files, "--data", tmp_path, "--out", tmp_path, "--share", share)
