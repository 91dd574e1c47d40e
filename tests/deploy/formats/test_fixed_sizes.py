"""LiteRT and ExecuTorch, whose files take inputs of one size."""

import pytest
import torch
from tiny_networks import SIDES, TINY, tiny

from hardnet_suite.deploy.exporting import export_file
from hardnet_suite.deploy.formats import FORMATS
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError

# words of the engine's messages
ENGINES = {"litert": "LiteRT", "executorch": "ExecuTorch"}


@pytest.fixture(params=ENGINES)
def form(request):
    """A format, where its packages are installed."""
    form = FORMATS[request.param]
    try:
        form.require_packages(to_write=True)
    except UserError as error:
        pytest.skip(str(error))
    return form


@pytest.fixture
def path(form, tmp_path):
    return tmp_path / f"net{form.suffixes[0]}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "hardnet68")) for name in sorted(TINY)]
)
def test_networks_of_each_kind(name, form, path):
    # the export itself compares outputs and answers with PyTorch's
    export = export_file(tiny(name), path, size=SIDES[name], batch=2)
    assert export.agreement.values < 1e-4
    assert ExportRecord.from_json(form.read_metadata(export.path)) == export.record
    run = form.open(export.path, record=export.record, threads=1)
    images = torch.rand(2, 3, SIDES[name], SIDES[name])
    first = run(images.numpy())
    copies = [output.copy() for output in first]
    run({"images": images.flip(0).numpy()})
    for output, copy in zip(first, copies, strict=True):
        assert (output == copy).all()  # the next call leaves it alone
        assert not (output[0] == output[1]).all()


@pytest.mark.slow
def test_patch_descriptors(form, path):
    export = export_file(tiny("hardnet_descriptor"), path, dynamic="none", includes=("preprocess",))
    run = form.open(export.path, record=export.record)
    (found,) = run(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).numpy())
    assert found.shape == (1, 128)
    assert (found**2).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_decoding_of_peaks_inside(form, path):
    export = export_file(tiny("centernet_hardnet68"), path, size=64, includes=("postprocess",))
    run = form.open(export.path, record=export.record)
    boxes, scores, labels = run(torch.rand(1, 3, 64, 64).numpy())
    assert (boxes.shape, scores.shape, labels.shape) == ((1, 100, 4), (1, 100), (1, 100))
    assert ((labels >= 0) == (scores > 0)).all()


@pytest.mark.slow
def test_pre_and_postprocessing_inside(form, path):
    export = export_file(tiny("fchardnet70"), path, size=96, includes=("preprocess", "postprocess"))
    run = form.open(export.path, record=export.record)
    (mask,) = run(torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8).numpy())
    assert mask.shape == (1, 96, 96)
    assert mask.dtype == "uint8"


def test_what_is_refused(form, path, capfd):
    network = tiny("hardnet68")
    with pytest.raises(UserError, match="has no dynamic size"):
        export_file(network, path, dynamic="size")
    with pytest.raises(UserError, match="has no non-maximum suppression"):
        export_file(tiny("ssd512_hardnet68"), path, includes=("postprocess",))
    export = export_file(network, path, size=64)
    if form.name == "litert":
        assert capfd.readouterr().out == ""
    engine = ENGINES[form.name]
    with pytest.raises(UserError, match=f"{engine} computes in the precision of the file"):
        form.open(export.path, record=export.record, precision="bf16")
    whole = export.path.read_bytes()
    export.path.write_bytes(whole[:100])
    with pytest.raises(UserError, match=f"{engine} cannot open it"):
        form.open(export.path, record=export.record)


def test_a_network_that_cannot_be_expressed(form, path, monkeypatch):
    def forward(x):
        return network.trunk(x)[0] if x.sum() > 0 else x  # depends on the values

    network = tiny("hardnet68")
    monkeypatch.setattr(network, "forward", forward)
    with pytest.raises(UserError, match=f"{ENGINES[form.name]} cannot express hardnet68: "):
        export_file(network, path, size=64)
    assert list(path.parent.iterdir()) == []
