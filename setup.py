"""Packages are found, not listed, and the data at the top of the repository goes into the package.

Everything else about the project is in ``pyproject.toml``. ``rr_bench/__init__.py`` finds the data
again, in the repository as in an installed copy.
"""

from setuptools import find_packages, setup

DATA = {
    "rr_bench.conf": "conf",
    "rr_bench.task_files": "tasks",
    "rr_bench.paper": "results/paper",
    "rr_bench.slurm": "slurm",
}

setup(
    packages=[*find_packages(include=["method", "method.*", "rr_bench", "rr_bench.*"]), *DATA],
    package_dir=DATA,
    package_data={
        "method": ["patterns/*.json"],
        "rr_bench.probe": ["model/*", "video/model/*"],
        "rr_bench.report.page": ["*.j2", "*.css", "*.js"],
        "rr_bench.conf": ["**/*.yaml"],
        "rr_bench.task_files": ["**/*.yaml"],
        "rr_bench.paper": ["*.csv"],
        "rr_bench.slurm": ["*.sbatch"],
    },
)
