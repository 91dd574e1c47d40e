"""A file whose bytes have changed is an error, in every format: no engine computes with other weights."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from tiny_networks import tiny

from hardnet_suite.deploy.exporting import export_file
from hardnet_suite.deploy.formats import FORMATS
from hardnet_suite.deploy.record import KEY
from hardnet_suite.deploy.session import open_session
from hardnet_suite.errors import UserError

SIDE = 64
IMAGES = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, tmp_path_factory):
    """The format, and the files of a classifier in it."""
    form = FORMATS[request.param]
    try:
        form.require_packages(to_write=True)
    except UserError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("whole") / f"net{form.suffixes[0]}"
    export_file(tiny("hardnet68"), path, format=form.name, size=SIDE)
    return form, path


def copied(form, path, folder):
    for part in form.parts(path):
        shutil.copy(part, folder)
    return folder / path.name


def logits(path):
    return open_session(path, trusted=True)(IMAGES)


def test_whole_files_are_opened_elsewhere(exported, tmp_path):
    form, path = exported
    torch.testing.assert_close(logits(copied(form, path, tmp_path)), logits(path), rtol=0, atol=0)


def test_changed_bytes(exported, tmp_path):
    form, path = exported
    expected = logits(path)
    other = copied(form, path, tmp_path)
    refused = 0
    for part in form.parts(other):
        whole = part.read_bytes()
        for position in range(0, len(whole), max(len(whole) // 40, 1)):
            part.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
            try:
                found, message = logits(other), str(tmp_path)
            except UserError as error:
                found, message = expected, str(error)
                refused += 1
            assert str(tmp_path) in message
            assert "\n" not in message
            # or it is a byte that says nothing of the network
            assert torch.equal(found, expected), f"byte {position} of {part.name}"
        part.write_bytes(whole)
    assert refused > 20


def test_a_file_that_is_written_over_while_it_is_open(exported, tmp_path):
    """Engines that map a file would compute with the new bytes, or die where it has become shorter."""
    form, path = exported
    other = copied(form, path, tmp_path)
    session = open_session(other, trusted=True)
    expected = session(IMAGES)
    for part in form.parts(other):
        size = part.stat().st_size
        with part.open("r+b") as stream:  # in its place, as cp does
            stream.write(bytes(size))
    assert torch.equal(session(IMAGES), expected)


def test_a_changed_digit_of_a_graph_in_text(exported, tmp_path):
    """It stays well-formed: another stride, or the weights of another layer."""
    form, path = exported
    if not form.beside:
        pytest.skip("the graph is not text")
    other = copied(form, path, tmp_path)
    whole = other.read_bytes()
    digits = [match.start() for match in re.finditer(rb"\d", whole[: whole.rindex(KEY.encode())])]
    for position in digits[:: max(len(digits) // 25, 1)]:
        digit = b"%d" % ((int(whole[position : position + 1]) + 1) % 10)
        other.write_bytes(whole[:position] + digit + whole[position + 1 :])
        with pytest.raises(UserError, match=str(tmp_path)):
            open_session(other, trusted=True)


def test_a_changed_digit_of_a_record(exported, tmp_path):
    """Another input rule."""
    form, path = exported
    other = copied(form, path, tmp_path)
    whole = other.read_bytes()
    position = re.search(rb'mean(?:"|&quot;): \[0\.', whole).end()
    other.write_bytes(whole[:position] + b"7" + whole[position + 1 :])
    with pytest.raises(UserError, match=other.name):
        open_session(other, trusted=True)


def test_zeros_among_the_weights(exported, tmp_path):
    form, path = exported
    other = copied(form, path, tmp_path)
    part = form.parts(other)[-1]
    whole = part.read_bytes()
    middle = len(whole) // 3
    part.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    with pytest.raises(UserError, match=rf"{part.name}|{other.name}"):
        logits(other)


def test_a_file_beside_of_another_network(exported, tmp_path):
    form, path = exported
    if not form.beside:
        pytest.skip("a single file")
    network = tiny("hardnet68")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
    other = tmp_path / path.name
    export_file(network, other, format=form.name, size=SIDE)
    weights = form.parts(other)[1]
    assert weights.stat().st_size == form.parts(path)[1].stat().st_size
    shutil.copy(path, other)
    with pytest.raises(UserError, match=rf"{weights.name} is damaged, or belongs to another file"):
        logits(other)
    weights.write_bytes(form.parts(path)[1].read_bytes() + b"more")
    with pytest.raises(UserError, match=rf"{weights.name} is damaged, or belongs to another file"):
        logits(other)
