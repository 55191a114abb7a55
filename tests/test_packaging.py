"""What a source distribution holds."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_source_distribution_can_be_built_and_tested(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    command += ["sdist", "--formats", "tar", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "GENET_CUDA": "0"}, capture_output=True)
    (archive,) = tmp_path.glob("*.tar")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    patterns = ("csrc/*.h", "csrc/*.cpp", "csrc/*.cu", "genet_ext/**/*.py", "genet_ext/weights/*")
    patterns += ("tests/**/*.py", "tests/data/*", "python/**/*.py", "python/**/*.csv", "python/**/*.toml")
    for pattern in patterns:
        wanted = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        assert wanted and wanted <= held, sorted(wanted - held)
    assert not any(name.endswith((".so", ".pyc")) for name in held)
