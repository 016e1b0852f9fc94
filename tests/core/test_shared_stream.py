"""Two hosts share a stream's batches; one is killed, and any number goes on."""

import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from jaxunlearn.core import write_index

CHILD = pathlib.Path(__file__).parent / "shared_stream_child.py"
ATTEMPTS = 2  # Another program may take the port between asking and binding.


def start(folder, processes, *flags):
  """The processes of a run on two devices."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  devices = f"--xla_force_host_platform_device_count={2 // processes}"
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": devices,
    "PYTHONPATH": str(CHILD.parents[2]),
  }
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
  command = [sys.executable, str(CHILD), str(port)]
  return [
    subprocess.Popen(
      [*command, str(i), str(processes), str(folder), *flags], env=env, **pipes
    )
    for i in range(processes)
  ]


def finished(folder, processes):
  """What each process says at the end: its first step and its weights."""
  for _ in range(ATTEMPTS):
    children = start(folder, processes)
    try:
      said = [child.communicate(timeout=120)[0] for child in children]
    finally:
      for child in children:
        child.kill()
    if not any(child.returncode for child in children):
      break
  told = [re.search(r"first step (\d+)\ndigest (\w+)", text) for text in said]
  assert all(told), "\n".join(said)[-4000:]
  return {(int(m.group(1)), m.group(2)) for m in told}


@pytest.mark.slow
def test_a_host_is_killed_and_one_or_two_go_on_to_the_same_bits(tmp_path):
  folder = tmp_path / "killed"
  for name in ("whole", "killed"):
    (tmp_path / name).mkdir()
    write_index(tmp_path / name / "forget.npy", [2, 3, 11, 40, 58])
  ((first, wanted),) = finished(tmp_path / "whole", 1)
  assert first == 0
  children = start(folder, 2, "--slow")
  try:
    deadline = time.monotonic() + 120
    while not (folder / "steps" / "20").exists():
      assert all(child.poll() is None for child in children)
      assert time.monotonic() < deadline
      time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    random.choice(children).kill()
  finally:
    for child in children:
      child.kill()
      child.communicate()
  steps = [
    int(p.name) for p in (folder / "steps").iterdir() if p.name.isdigit()
  ]
  assert 20 <= max(steps) < 120
  shutil.copytree(folder, tmp_path / "alone")
  for where, processes in ((folder, 2), (tmp_path / "alone", 1)):
    ((first, found),) = finished(where, processes)
    assert found == wanted and first > 0
