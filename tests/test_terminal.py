"""Output into other encodings and into pipes that nobody reads to the end."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_characters_of_another_encoding(errors):
    code = "from rr_bench.store.terminal import tolerant_output as t; t(); print('a – b')"
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    done = subprocess.run(command, capture_output=True, env={"PYTHONIOENCODING": f"ascii:{errors}"})
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"a ? b", b"")


def test_a_closed_pipe_is_no_error():
    code = "from rr_bench.store.terminal import print_long as p; [p('x' * 100_000) for _ in range(3)]"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
