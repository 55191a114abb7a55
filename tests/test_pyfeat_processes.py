"""py-feat's worker processes and thread setting: what can only be seen from a fresh Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("feat", reason="py-feat is not installed: pip install py-feat")

HERE = Path(__file__).parent
SETUP = f"""
import sys, tempfile, warnings
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
import feat, genet_ext
import pyfeat_standins as standins
from genet_ext import fitting
from tiny_models import tiny_models
models = tiny_models(0)
fitting.shipped_models = lambda device: models
options = dict(landmark_model=None, emotion_model=None, identity_model=None, gaze_model=None)
options.update(au_model="genet", au_kwargs=dict(iterations=5), device="cpu")
"""


def run_script(tmp_path: Path, body: str, **environment: str) -> str:
    """The output of a script file in a fresh Python (a spawned worker imports the file again)."""
    script = tmp_path / "script.py"
    script.write_text(body)
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    inherited["PYTHONPATH"] = str(HERE.parent)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_spawned_workers(tmp_path: Path) -> None:
    """Workers that are spawned, not forked, import everything anew and must give the same numbers."""
    body = """
if __name__ == "__main__":
    import multiprocessing
    multiprocessing.set_start_method("spawn")
    SETUP
    import numpy as np
    pictures = [str(standins.test_data() / name) for name in ("single_face.jpg", "multi_face.jpg")]
    with standins.offline_py_feat(Path(tempfile.mkdtemp())):
        detector = feat.Detectorv1(**options)
        alone, spawned = (
            detector.detect(pictures, num_workers=n, progress_bar=False) for n in (0, 1)
        )
    assert len(alone) == 6 and alone["AU43"].notna().all()
    np.testing.assert_array_equal(spawned.aus, alone.aus)
    print("the same")
"""
    indented = SETUP.strip().replace("\n", "\n    ")
    assert run_script(tmp_path, body.replace("SETUP", indented)) == "the same"


COUNT_WARNINGS = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with standins.offline_py_feat(Path(tempfile.mkdtemp())):
        BEFORE
        for _ in range(2):
            feat.Detectorv1(**options)
print([w.filename == __file__ for w in caught if "OMP_NUM_THREADS" in str(w.message)])
"""


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor: one thread is all there is")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux tells what a process had")
@pytest.mark.parametrize(
    ("before", "environment", "expected"),
    [
        ("", {}, "[True]"),  # once, and at the line of the user's script
        ("", {"OMP_NUM_THREADS": "1"}, "[]"),  # the user's own choice
        ("import torch; torch.set_num_threads(2)", {}, "[]"),
    ],
)
def test_one_thread_is_said_once(
    tmp_path: Path, before: str, environment: dict[str, str], expected: str
) -> None:
    body = SETUP + COUNT_WARNINGS.replace("BEFORE", before or "pass")
    assert run_script(tmp_path, body, **environment) == expected
