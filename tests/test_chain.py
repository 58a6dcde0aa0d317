"""system/chain.py: how commands of the toolkit are run one after another."""

import subprocess

import pytest

from faceeraser.system import chain


@pytest.mark.parametrize(
    ("command", "each"),
    [
        (["train/train.py", "data", "runs/fp32", "--batch", "16"], "8"),
        (["compress/prune.py", "runs/fp32", "runs/pruned"], "4"),
        (["compress/prune.py", "runs/fp32", "runs/pruned", "--batch", "1"], "1"),
        (["benchmarks/latency.py", "file"], None),
    ],
)
def test_two_processes_share_the_batch_that_a_stage_is_asked_for(command, each, monkeypatch, tmp_path) -> None:
    lines = []

    def run(line, **_options):
        lines.append(line)
        return subprocess.CompletedProcess(line, 0, "")

    monkeypatch.setattr(chain.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(chain.subprocess, "run", run)
    chain.run_all([command], tmp_path)
    (line,) = lines
    last = line[-1] if line[-2] == "--batch" and line[:-2].count("--nproc-per-node=2") else None
    assert last == each
