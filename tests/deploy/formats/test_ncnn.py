import re
import subprocess

import pytest
import torch
from tiny_networks import SIDES, TINY, tiny
from torch import nn

from hardnet_suite.deploy.exporting import export_file
from hardnet_suite.deploy.formats import ncnn as format_of_ncnn
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError
from hardnet_suite.networks.layers import L2Norm

pytest.importorskip("pnnx", reason="pnnx, which writes ncnn's files, is not installed", exc_type=ImportError)
pytest.importorskip("ncnn", reason="ncnn is not installed", exc_type=ImportError)


@pytest.mark.parametrize("name", sorted(TINY))
def test_networks_of_each_kind(name, tmp_path):
    # the export itself compares outputs and answers with PyTorch's
    export = export_file(tiny(name), tmp_path / "net.param", size=SIDES[name], batch=2)
    assert export.agreement.values < 1e-4
    run = format_of_ncnn.open(export.path, record=export.record, threads=1)
    images = torch.rand(3, 3, SIDES[name], SIDES[name])  # one after the other: any number
    first, again = run(images.numpy()), run({"images": images.numpy()})
    for output, other in zip(first, again, strict=True):
        assert len(output) == 3
        assert not (output[0] == output[1]).all()
        assert (output == other).all()


@pytest.mark.parametrize("name", ["fchardnet70", "centernet_hardnet68", "hardnet39ds"])
def test_any_size(name, tmp_path):
    network = tiny(name)
    export = export_file(network, tmp_path / "net.param", dynamic="size")
    run = format_of_ncnn.open(export.path, record=export.record, threads=1)
    step = export.record.side_multiple
    for height, width in ((64, 96), (128, 64 + step), (192 + step, 160)):
        images = torch.rand(1, 3, height, width)
        with torch.inference_mode():
            out = network(images)
        expected = [out] if isinstance(out, torch.Tensor) else list(out.values())
        for found, each in zip(run(images.numpy()), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), each, rtol=1e-3, atol=1e-4)


def pnnx_in_place(monkeypatch, **result) -> list[str]:
    """pnnx ends like this; the arguments that it is given."""
    given = []

    def run(arguments, **_):
        given.extend(arguments)
        return subprocess.CompletedProcess(
            arguments, **({"returncode": 1, "stdout": "", "stderr": ""} | result)
        )

    monkeypatch.setattr(format_of_ncnn.subprocess, "run", run)
    return given


@pytest.mark.parametrize("name", ["fchardnet70", "centernet_hardnet68", "hardnet39ds"])
def test_the_second_size_is_a_small_one(name, tmp_path, monkeypatch):
    """pnnx computes it: thousands of pixels more took tens of gigabytes."""
    given = pnnx_in_place(monkeypatch)
    with pytest.raises(UserError, match="pnnx ends with status 1"):
        export_file(tiny(name), tmp_path / "net.param", dynamic="size")
    shapes = [
        [int(side) for side in re.search(r"=\[([\d,]+)\]", argument)[1].split(",")]
        for argument in given
        if argument.startswith("inputshape")
    ]
    (_, _, *first), (_, _, *second) = shapes
    assert [b - a for a, b in zip(first, second, strict=True)] == [128, 64]


def test_what_pnnx_says_is_told(tmp_path, monkeypatch):
    pnnx_in_place(monkeypatch, returncode=-11, stderr="no such layer\n\n----------------\n\n")
    with pytest.raises(UserError, match=r"ncnn cannot express hardnet68: no such layer$"):
        export_file(tiny("hardnet68"), tmp_path / "net.param", size=64)
    pnnx_in_place(monkeypatch, returncode=-9, stderr="inline module\n\n----------------\n\n")
    with pytest.raises(UserError, match=r"^pnnx was killed as it wrote hardnet68"):
        export_file(tiny("hardnet68"), tmp_path / "net.param", size=64)
    assert not list(tmp_path.iterdir())


def test_pre_and_postprocessing_inside(tmp_path):
    export = export_file(
        tiny("hardnet68"), tmp_path / "net.param", size=64, includes=("preprocess", "postprocess")
    )
    run = format_of_ncnn.open(export.path, record=export.record)
    (found,) = run(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8).numpy())
    assert found.sum(1) == pytest.approx(1)


def test_the_record_travels_behind_the_graph(tmp_path):
    path = tmp_path / "net.param"
    record = export_file(tiny("hardnet68"), path, size=64, weights="so trained – ü").record
    assert ExportRecord.from_json(format_of_ncnn.read_metadata(path)) == record
    assert record.weights == "so trained – ü"
    export_file(tiny("hardnet68"), path, size=64)  # takes the place of an earlier one
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    assert format_of_ncnn.read_metadata(path) is None
    with pytest.raises(UserError, match="no earlier export wrote it"):
        export_file(tiny("hardnet68"), path, size=64)


@pytest.mark.parametrize(
    "content", [b"", b"7767517", b"# hardnet_suite {}", b"7767517\n\xff\xfe", b"\0" * 100]
)
def test_files_of_other_programs(content, tmp_path):
    (tmp_path / "net.param").write_bytes(content)
    assert format_of_ncnn.read_metadata(tmp_path / "net.param") is None


def test_what_cannot_be_expressed_or_opened(tmp_path):
    with pytest.raises(UserError, match=r"ncnn cannot express fchardnet70 with postprocess: .*argmax"):
        export_file(tiny("fchardnet70"), tmp_path / "net.param", size=96, includes=("postprocess",))
    assert list(tmp_path.iterdir()) == []
    export = export_file(tiny("hardnet68"), tmp_path / "net.param", size=64)
    with pytest.raises(UserError, match="fp32 or bf16 here, not in fp16"):
        format_of_ncnn.open(export.path, record=export.record, precision="fp16")
    (tmp_path / "net.bin").write_bytes(b"\0" * 7)
    with pytest.raises(UserError, match="ncnn cannot open it"):
        format_of_ncnn.open(export.path, record=export.record)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(UserError, match=r"lacks its weights, net\.bin beside it"):
        format_of_ncnn.open(export.path, record=export.record)


def test_bfloat16_is_close_but_not_the_same(tmp_path):
    export = export_file(tiny("hardnet68"), tmp_path / "net.param", size=64)
    images = torch.rand(1, 3, 64, 64).numpy()
    (exact,), (rounded,) = (
        format_of_ncnn.open(export.path, record=export.record, precision=each)(images)
        for each in (None, "bf16")
    )
    assert not (exact == rounded).all()
    assert rounded == pytest.approx(exact, abs=0.05 * float(abs(exact).max()))


def test_the_layer_for_l2norm_is_the_same_function():
    norm = L2Norm(6, 20.0)
    nn.init.uniform_(norm.weight, 5, 25)
    replaced = format_of_ncnn._expressible(nn.Sequential(nn.Identity(), norm))
    maps = torch.randn(2, 6, 5, 7)
    maps[0, :, 2] = 0  # a pixel without length
    with torch.no_grad():
        torch.testing.assert_close(replaced(maps), norm(maps))
    assert not any(isinstance(layer, L2Norm) for layer in replaced.modules())
