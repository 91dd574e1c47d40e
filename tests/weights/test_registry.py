from __future__ import annotations

import dataclasses
import os
import re
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hardnet_suite.errors import UserError
from hardnet_suite.networks import list_models
from hardnet_suite.weights.checkpoint import chosen_row
from hardnet_suite.weights.layouts import FOREIGN
from hardnet_suite.weights.registry import ROWS, Address, find


def test_every_row_is_found_under_its_own_name_and_tag():
    assert len(ROWS) == 51
    for row in ROWS:
        assert find(row.model, row.tag) is row
        assert row.model in list_models()


def test_the_default_tag_is_what_the_authors_published():
    row = find("hardnet68")
    assert (row.tag, row.file, row.metric) == ("published", "hardnet68-5d684880.pth", "ImageNet top-1 76.5")


def test_every_row_has_a_hash_or_a_reason():
    assert all(row.pinned != bool(row.no_hash) for row in ROWS)
    assert len([row for row in ROWS if row.pinned]) >= 30
    # no hash of these is known
    assert {(row.model, row.tag) for row in ROWS if not row.pinned} == {
        ("ssd512_hardnet68", "published"),
        ("ssd512_hardnet85", "published"),
        ("rfb512_hardnet68", "published"),
        ("rfb512_hardnet85", "published"),
        ("centernet_hardnet85", "published"),
        ("centernet_hardnet85", "published_608"),
        ("centernet_hardnet85", "fairmot"),
        ("fchardnet70", "semantic-segmentation"),
        ("fchardnet70_paddleseg", "published"),
        ("hardnet_mseg", "published"),
        *((model, "paddleclas") for model in ("hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85")),
    }


def test_every_known_blob_is_in_the_registry():
    default = Path(__file__).resolve().parents[3] / "shared"
    table = Path(os.environ.get("HARDNET_SHARED", default)) / "weights/git_blob_pins.tsv"
    if not table.is_file():
        pytest.skip(f"no table of git blobs at {table} (set HARDNET_SHARED)")
    lines = [line.split("\t") for line in table.read_text().splitlines() if not line.startswith("#")]
    known = {(*name.split("/"), blob) for name, blob, *_ in lines if re.fullmatch(r"\w+/\w+", name)}
    assert len(known) > 10
    for model, tag, blob in known:
        assert {address.git_blob for address in find(model, tag).urls} - {None} == {blob}
    # a row of the table that the registry had under no tag when the table was made
    (extra,) = (blob for name, blob, *_ in lines if name.endswith("/br6-UNREGISTERED"))
    assert {address.git_blob for address in find("hardnet_descriptor", "br6").urls} == {extra}


def test_one_blob_per_row():
    """All addresses with a git blob hash in a row hold the same file."""
    for row in ROWS:
        assert len({address.git_blob for address in row.urls} - {None}) <= 1, row


def test_every_published_row_has_a_second_holder_or_a_reason():
    """The Internet Archive, of which nobody knows what it has, is none."""
    published = [row for row in ROWS if not row.shipped]
    for row in published:
        assert len({address.url for address in row.urls}) == len(row.urls) >= 1, row
        assert row.mirrored != bool(row.no_mirror), row
    assert {(row.model, row.tag) for row in published if not row.mirrored} == {
        *((model, "pytorchcv") for model in ("hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85")),
        ("hardnet39ds", "stm32ai"),
        *((row.model, row.tag) for row in published if not row.pinned),
    }
    assert not any(row.mirrored or row.no_mirror for row in ROWS if row.shipped)


@pytest.mark.parametrize(
    ("url", "holder"),
    [
        ("https://host.org/folder/w.pth", "host.org"),
        ("https://web.archive.org/web/2023id_/https://host.org/folder/w.pth", "host.org"),
        ("https://raw.githubusercontent.com/owner/repo/HEAD/w.pth", "owner/repo"),
        ("https://media.githubusercontent.com/media/owner/repo/HEAD/w.pth", "owner/repo"),
        ("https://github.com/owner/repo/raw/HEAD/w.pth", "owner/repo"),
        ("https://cdn.jsdelivr.net/gh/owner/repo@HEAD/w.pth", "owner/repo"),
        ("https://web.archive.org/web/2023id_/https://github.com/owner/repo/w.pth", "owner/repo"),
        ("https://huggingface.co/owner/repo/resolve/main/w.pth", "owner/repo"),
    ],
)
def test_who_keeps_a_copy(url, holder):
    assert Address(url).holder == holder


def test_the_layout_of_a_row_is_one_that_its_model_has():
    assert {row.layout for row in ROWS} == {"", *FOREIGN}
    for row in ROWS:
        assert not row.layout or FOREIGN[row.layout].has(row.model), row


def test_addresses_are_well_formed():
    for address in (address for row in ROWS for address in row.urls):
        parts = urlsplit(address.url)
        assert parts.scheme == "https"
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc)
        assert parts.path.startswith("/")
        assert not re.search(r"\s|//|\.\.", parts.path.replace("/https://", "/"))
        assert re.fullmatch(r"[\w.+-]+\.(pth|pkl|pt|pth\.zip|pdparams|onnx)", address.file), address
        assert address.git_blob is None or re.fullmatch(r"[0-9a-f]{40}", address.git_blob)
        assert address.sha256_prefix is None or re.fullmatch(r"[0-9a-f]{8,64}", address.sha256_prefix)


def test_a_hash_stands_in_the_name_of_its_file_as_torch_hub_writes_it():
    addresses = [address for row in ROWS for address in row.urls]
    in_name = [address for address in addresses if len(address.sha256_prefix or "") == 8]
    assert len(in_name) == 8  # and the archive's copies
    for address in addresses:
        assert address.url.startswith("https://")
        assert len(address.sha256_prefix or "") in (0, 8, 64)
        if address.sha1:
            assert re.fullmatch(r"[0-9a-f]{40}", address.sha1)
            assert address.file.endswith(f"-{address.sha1[:8]}.pth.zip")  # as pytorchcv names its files
        if address in in_name:
            assert address.file.endswith(f"-{address.sha256_prefix}.pth")


def test_a_dead_host_is_not_the_end():
    """Every file of the authors' host has another address, where its bytes are the same."""
    rows = [row for row in ROWS if row.urls and "ping-chao.com" in row.urls[0].url]
    assert len(rows) == 16
    for row in rows:
        first, *_, last = row.urls
        assert last.url == f"https://web.archive.org/web/2023id_/{first.url}"
        assert (last.file, last.sha256_prefix) == (first.file, first.sha256_prefix)


def test_no_two_rows_share_a_file():
    """The cache is keyed by file name: equal names are one row's, the same blob, or the same addresses."""
    owners, blobs, places = defaultdict(set), defaultdict(set), defaultdict(set)
    for row in ROWS:
        for address in row.urls:
            owners[address.file].add((row.model, row.tag))
            blobs[address.file].add(address.git_blob)
            places[address.file].add(row.urls)
    for file, rows in owners.items():
        same = len(rows) == 1 or len(places[file]) == 1
        assert same or (len(blobs[file]) == 1 and None not in blobs[file]), (file, rows)


@pytest.mark.parametrize("trunk", ["hardnet68", "hardnet85"])
def test_rfb_net_starts_from_the_trunk_of_ssd(trunk):
    ssd, rfb = (find(f"{detector}512_{trunk}", "base") for detector in ("ssd", "rfb"))
    assert rfb == dataclasses.replace(ssd, model=f"rfb512_{trunk}")
    assert rfb.pinned


def test_only_the_trunk_files_are_base_only():
    assert {row.file for row in ROWS if row.base_only} == {
        "hardnet68_base_bridge.pth",
        "hardnet85_base.pth",
        "centernet_hardnet68_base.pth",
        "centernet_hardnet85_base.pth",
        "hardnet_petite_base.pth",
        "fairmot_enhance_hardnet85_30e_1088x608.pdparams",
    }
    assert all(row.base_only == (row.tag in ("base", "fairmot")) for row in ROWS)


def test_an_unknown_tag_lists_the_tags_of_that_model():
    with pytest.raises(ValueError, match=r"'camvid'.*ssd512_hardnet68.*allowed tags: published, base"):
        find("ssd512_hardnet68", "camvid")


def test_an_unknown_model_lists_the_models():
    with pytest.raises(ValueError, match=r"'resnet50'.*hardnet39ds.*ssd512_hardnet85"):
        find("resnet50")


def test_rows_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find("hardnet68").tag = "other"
    assert Address("https://host/folder/name.pth").file == "name.pth"


@pytest.mark.parametrize("tag", ["bccd", "BCCD", "B-C-C-D", "Bccd"])
@pytest.mark.parametrize("model", ["ssd320_hardnet39ds", "SSD320-HarDNet39DS"])
def test_names_and_tags_in_any_spelling(tag, model):
    assert find(model, tag) is find("ssd320_hardnet39ds", "bccd")


def test_a_file_comes_before_a_tag_that_is_spelt_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "ssd320_hardnet39ds"
    assert chosen_row(name, "BCCD") is chosen_row(name, "bccd") is find(name, "bccd")
    (tmp_path / "BCCD").touch()
    assert chosen_row(name, "BCCD") is None
    assert chosen_row(name, "bccd") is find(name, "bccd")
    with pytest.raises(UserError, match=r"no weights bcd: .*did you mean bccd\?"):
        chosen_row(name, "bcd")
