"""OpenVINO's files, and what OpenVINO does to its process."""

import html
import json
import re
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from deploy.exported import a_record
from tiny_networks import tiny

from hardnet_suite.deploy import export, open_session
from hardnet_suite.deploy.formats import openvino as openvino_format

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


def test_a_file_whose_record_says_nothing_of_the_graph(tmp_path):
    """As earlier versions wrote it."""
    path, images = export(tiny("hardnet68"), tmp_path / "net.xml", size=64), torch.rand(1, 3, 64, 64)
    expected = open_session(path)(images)

    def earlier(match: re.Match) -> str:
        record = json.loads(html.unescape(match[1]))
        del record["sha256"]
        record["contents"] = [content for content in record["contents"] if content["suffix"]]
        return f'<hardnet_suite value="{html.escape(json.dumps(record))}" />'

    text, count = re.subn(r'<hardnet_suite value="([^"]*)" />', earlier, path.read_text())
    assert count == 1
    path.write_text(text)
    torch.testing.assert_close(open_session(path)(images), expected, rtol=0, atol=0)


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    import openvino
    from openvino import opset13 as ops

    images = ops.parameter([1, 100_000], np.float32)
    model = openvino.Model([ops.add(images, ops.constant(np.ones((1, 100_000), np.float32)))], [images])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="OpenVINO cannot write all of it"):
            openvino_format.save(model, tmp_path / "net.xml", a_record())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
