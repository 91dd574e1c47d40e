from __future__ import annotations

import dataclasses

import pytest

from hardnet_suite.networks import list_models
from hardnet_suite.weights.registry import ROWS, Address, find


def test_every_row_is_found_under_its_own_name_and_tag():
    assert len(ROWS) == 27
    for row in ROWS:
        assert find(row.model, row.tag) is row
        assert row.model in list_models()


def test_the_default_tag_is_what_the_authors_published():
    row = find("hardnet68")
    assert (row.tag, row.file, row.metric) == ("published", "hardnet68-5d684880.pth", "ImageNet top-1 76.5")


def test_a_hash_stands_in_the_name_of_its_file_as_torch_hub_writes_it():
    addresses = [address for row in ROWS for address in row.urls]
    assert sum(address.sha256_prefix is not None for address in addresses) == 8  # and the archive's copies
    for address in addresses:
        assert address.url.startswith("https://")
        if address.sha256_prefix:
            assert len(address.sha256_prefix) == 8
            assert address.file.endswith(f"-{address.sha256_prefix}.pth")


def test_a_dead_host_is_not_the_end():
    """Every file of the authors' host has another address, where its bytes are the same."""
    rows = [row for row in ROWS if row.urls and "ping-chao.com" in row.urls[0].url]
    assert len(rows) == 12
    for row in rows:
        first, *_, last = row.urls
        assert last.url == f"https://web.archive.org/web/2023id_/{first.url}"
        assert (last.file, last.sha256_prefix) == (first.file, first.sha256_prefix)


def test_no_two_rows_share_a_file():
    owners = {(address.file, row.model, row.tag) for row in ROWS for address in row.urls}
    assert len({file for file, *_ in owners}) == len(owners)


def test_only_the_trunk_files_are_base_only():
    assert {row.file for row in ROWS if row.base_only} == {
        "hardnet68_base_bridge.pth",
        "hardnet85_base.pth",
        "centernet_hardnet68_base.pth",
        "centernet_hardnet85_base.pth",
        "hardnet_petite_base.pth",
    }
    assert all(row.base_only == (row.tag == "base") for row in ROWS)


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
