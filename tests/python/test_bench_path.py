"""bench_path on a few small photographs: its stages add up, its savings are real switches, its memory run."""

from __future__ import annotations

import json
import os
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from tiny_models import tiny_models

from genet_ext import fitting
from python.bench import bench_path
from python.bench.stage_clock import StageClock


@pytest.fixture(autouse=True)
def _restore_process(monkeypatch):
    processors, threads, grad = os.sched_getaffinity(0), torch.get_num_threads(), torch.is_grad_enabled()
    models = tiny_models(3)
    monkeypatch.setattr(fitting, "shipped_models", lambda device: models)
    yield
    os.sched_setaffinity(0, processors)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(astronaut()[:260, 90:350]).save(tmp_path / "face.png")
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(tmp_path / "no-face.png")
    return tmp_path


def test_profile(folder, tmp_path):
    out, picture = tmp_path / "results" / "path.json", tmp_path / "pictures" / "path.png"
    command = [
        "--data",
        str(folder),
        "--photos",
        "4",
        "--runs",
        "2",
        "--out",
        str(out),
        "--plot",
        str(picture),
    ]
    assert bench_path.main(command) == 0
    result = json.loads(out.read_text())
    assert (result["schema"], result["photographs"], result["threads"]) == (bench_path.SCHEMA, 4, 1)
    searched, given = bench_path.SEARCHED, bench_path.GIVEN
    assert [(row["case"], row["variant"]) for row in result["results"]] == [
        (case, variant) for case in (searched, given) for variant in bench_path.variants(case)
    ]
    for row in result["results"]:
        assert list(row["stages_cpu_ms"]) == bench_path.STAGES
        assert (row["fitted"], row["rows"]) == (2, 4)
        assert len(row["cpu_ms_of_runs"]) == 2
        assert row["stages_cpu_ms"]["extractor"] > 0
        assert (row["stages_cpu_ms"]["face finder"] > 0) == (row["case"] == searched)
    assert picture.stat().st_size > 1000


def test_every_hook_exists_and_every_saving_can_be_switched_off():
    for owner, name, _ in bench_path.HOOKS:
        assert callable(owner.__dict__[name])
    for saving in (saving for savings in bench_path.SAVINGS.values() for saving in savings.values()):
        module, name, off = saving
        on = getattr(module, name)
        assert on != off
        with bench_path.switched_off(saving):
            assert getattr(module, name) == off
        assert getattr(module, name) == on


def test_memory(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_path, "pictures", lambda folder, count: [astronaut()[:192, 120:312]] * 3)
    out = tmp_path / "memory.json"
    assert bench_path.main(["--data", str(folder), "--memory-faces", "130", "--out", str(out)]) == 0
    held = json.loads(out.read_text())["memory"]
    assert (held["faces"], held["samples_faces"]) == (130, [64, 128, 130])
    assert held["peak_mib"] >= held["mib_at_the_end"] > 10


def test_clock_takes_inner_stages_off_and_knows_threads():
    class Work:
        def outer():
            Work.inner()

        def inner():
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                pass

    plain = Work.__dict__["inner"]
    clock = StageClock()
    with clock.watching([(Work, "outer", "outer"), (Work, "inner", "inner")]):
        threads = [threading.Thread(target=Work.outer) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert clock.seconds["inner"] == pytest.approx(0.1, abs=0.02)
    assert clock.seconds["outer"] < 0.02
    assert Work.__dict__["inner"] is plain
