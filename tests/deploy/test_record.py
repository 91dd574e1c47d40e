"""The record that travels in an exported file."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from deploy.exported import a_record
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL

from hardnet_suite.deploy.record import INCLUDES, PRECISIONS, Content, ExportRecord
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, POSTPROCESS, PREPROCESS, Pad, Usage
from hardnet_suite.networks.arch import arch_from_dict, arch_to_dict


@pytest.mark.parametrize("arch", [*ARCHS.values(), *SMALL.values()])
def test_rows_survive_json(arch):
    assert arch_from_dict(json.loads(json.dumps(arch_to_dict(arch)))) == arch


def test_rows_of_an_older_version_have_the_defaults_of_what_came_later():
    arch = ARCHS["fchardnet70"]
    values = arch_to_dict(arch)
    for name in ("stem_stride", "block_act"):
        del values["trunk"][name]
    assert arch_from_dict(values) == arch
    del values["trunk"]["stages"]
    with pytest.raises(ValueError, match=r"FCHarDNetArch\.trunk is .*expected HarDNetArch"):
        arch_from_dict(values)


names = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=20)
colour = st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def records(draw) -> ExportRecord:
    name = draw(st.sampled_from(sorted(ARCHS)))
    count = draw(st.integers(1, 5))
    pad = draw(st.none() | st.builds(Pad, multiple=st.integers(1, 64), value=st.integers(0, 255)))
    usage = Usage(
        name,
        replace(PREPROCESS[name], pad=pad, scale=draw(st.integers(1, 3000)) / 10),
        POSTPROCESS[name],
        draw(st.none() | st.lists(names, min_size=count, max_size=count, unique=True).map(tuple)),
        draw(st.none() | st.lists(colour, min_size=count, max_size=count).map(tuple)),
    )
    side = st.integers(1, 4096) | st.sampled_from("HW")
    return ExportRecord(
        usage=usage,
        arch=ARCHS[name],
        num_classes=count,
        in_chans=draw(st.integers(1, 8)),
        input_shape=(draw(st.just("N") | st.integers(1, 64)), 3, draw(side), draw(side)),
        outputs=tuple(draw(st.lists(names, min_size=1, max_size=4))),
        precision=draw(st.sampled_from(PRECISIONS)),
        includes=tuple(draw(st.lists(st.sampled_from(INCLUDES), unique=True))),
        weights=draw(st.none() | st.text(max_size=30)),
        network_digest=draw(st.none() | st.text(max_size=64)),
    )


@settings(deadline=None, max_examples=60)
@given(records())
def test_records_survive_json(record):
    text = record.to_json()
    assert "\n" not in text
    assert ExportRecord.from_json(text) == record


def test_a_record_of_an_earlier_version_does_not_know_its_network():
    values = json.loads(a_record(weights="w").to_json())
    for name in ("network_digest", "sha256"):
        del values[name]
    assert ExportRecord.from_json(json.dumps(values)) == a_record(weights="w")


def test_a_changed_digit_of_a_record():
    text = a_record(weights="epoch 3", contents=(Content(".bin", 12, "0f3a"),)).to_json()
    digits = [match.start() for match in re.finditer(r"\d", text)]
    assert len(digits) > 100
    for position in digits:
        digit = (int(text[position]) + 1) % 10
        with pytest.raises(UserError, match="metadata of an exported file are damaged"):
            ExportRecord.from_json(f"{text[:position]}{digit}{text[position + 1 :]}")


def test_records_of_another_order_and_spacing():
    values = json.loads(a_record(weights="é").to_json())
    text = json.dumps(dict(reversed(values.items())), indent=1, ensure_ascii=False)
    assert ExportRecord.from_json(text) == a_record(weights="é")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(0.5) | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=5,
)


def error_of(text: str) -> str | None:
    """The message of the error that a text is; None of a record, which survives another round trip."""
    try:
        record = ExportRecord.from_json(text)
    except UserError as error:
        return str(error)
    assert ExportRecord.from_json(record.to_json()) == record
    return None


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_records_are_one_error(data):
    """A value of a record, at any depth, becomes something else, or is missing."""
    text = a_record(includes=INCLUDES, weights="w").to_json()
    place = values = json.loads(text)
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    is_missing = isinstance(place, dict) and data.draw(st.booleans())
    if is_missing:
        del place[key]
    else:
        place[key] = data.draw(json_values)
    message = error_of(json.dumps(values))
    if "sha256" in values:
        assert (message is None) == (json.dumps(values) == text)
        del values["sha256"]  # each value is checked, too
    message = error_of(json.dumps(values))
    assert message is None or ("damaged" in message and len(message.splitlines()) == 1)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", '{"version": 1}', '{"version": 2}', "[" * 100_000, "\ud800", "NaN", "é"]
)
def test_other_text_is_one_error(text):
    with pytest.raises(UserError, match="damaged"):
        ExportRecord.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": -1}, "must be counts"),
        ({"in_chans": True}, "must be counts"),
        ({"input_shape": [1, 3, 0, 4]}, "four sizes or names"),
        ({"outputs": []}, "must be names"),
        ({"includes": ["resize"]}, "preprocess, postprocess"),
        ({"precision": "fp64"}, "fp32, fp16"),
        ({"weights": 3}, "must be text"),
        ({"extra": 3}, "expected arch"),
    ],
)
def test_values_out_of_range(changes, message):
    values = json.loads(a_record().to_json()) | changes
    with pytest.raises(UserError, match=message):
        ExportRecord.from_json(json.dumps(values))


@pytest.mark.parametrize("classes", [["a"] * 19, ["a"], ["a\n", *"bcdefghijklmnopqrs"]])
def test_class_names_are_checked(classes):
    values = json.loads(a_record().to_json())
    values["usage"]["classes"] = classes
    with pytest.raises(UserError, match="damaged"):
        ExportRecord.from_json(json.dumps(values))


def test_names_and_limits_of_inputs():
    assert a_record().input_name == "images"
    assert a_record(includes=("preprocess",)).input_name == "pixels"
    assert a_record("hardnet_descriptor").input_name == "patches"
    assert a_record().free_dimensions == {0: "N", 2: "H", 3: "W"}
    assert a_record("centernet_hardnet68").side_multiple == 32
    assert a_record().side_multiple == 1
    assert a_record().least_side == 128
