"""What OpenVINO does to its process."""

import signal
import subprocess
import sys

import pytest
from tiny_networks import tiny

from hardnet_suite.deploy import export

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")

SIGNALS = """
import gc, os, signal, sys, torch
from hardnet_suite.deploy import open_session
from hardnet_suite.errors import UserError

images = torch.rand(1, 3, 64, 64)
precisions = ["fp32", "bf16"]
sessions = []
for precision in precisions * 2:
    try:
        sessions.append(open_session(sys.argv[1], precision=precision))
    except UserError as error:
        assert "no bf16 on this processor" in str(error)
while sessions:
    sessions[0](images)
    del sessions[0]
    gc.collect()
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
print(len(seen))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals")
def test_signals_after_sessions_that_overlap(tmp_path):
    path = export(tiny("hardnet68"), tmp_path / "net.xml", size=64)
    done = subprocess.run([sys.executable, "-c", SIGNALS, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
