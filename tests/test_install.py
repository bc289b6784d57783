"""The wheel holds everything, works from any folder, and declares every package it imports."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("method", "rr_bench")
FOLDERS = {
    "conf": "rr_bench/conf",
    "tasks": "rr_bench/task_files",
    "results/paper": "rr_bench/paper",
    "slurm": "rr_bench/slurm",
}
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, unpacked as pip would."""
    base = tmp_path_factory.mktemp("install")
    source = base / "source"
    for folder in (*SOURCES, *FOLDERS):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=unwanted)
    for file in FILES:
        shutil.copy(ROOT / file, source / file)
    build = ["-m", "pip", "wheel", str(source), "--wheel-dir", str(base)]
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([sys.executable, *build, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = base.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(base / "site")
    return base / "site"


def test_the_wheel_holds_every_file(installed: Path):
    wanted = {
        file.relative_to(ROOT)
        for folder in SOURCES
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    for folder, place in FOLDERS.items():
        wanted |= {
            place / file.relative_to(ROOT / folder)
            for file in (ROOT / folder).rglob("*")
            if file.suffix in (".yaml", ".csv")
        }
    found = {file.relative_to(installed) for file in installed.rglob("*") if file.is_file()}
    assert wanted - found == set()


def test_the_wheel_runs_from_another_folder(installed: Path, tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "rr_bench", "dry_run=true", "+experiment=helmet_recall"]
    dry = subprocess.run(
        [*command, "model=probe"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert dry.returncode == 0, dry.stderr[-2000:]
    assert f"model probe ({installed}" in dry.stdout
    assert "probe niah_mv 8192 rr" in dry.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {_normal(re.split(r"[\[><=; ]", line)[0]) for line in lines}
    carriers = packages_distributions()
    missing = {
        (name, str(file.relative_to(ROOT)))
        for folder in SOURCES
        for file in (ROOT / folder).rglob("*.py")
        for name in _imported(file) - {*sys.stdlib_module_names, *SOURCES}
        if not {_normal(one) for one in carriers.get(name, [name])} & declared
    }
    assert missing == set(), "declare these in pyproject.toml"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(file: Path) -> set[str]:
    """Top-level names of the packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
