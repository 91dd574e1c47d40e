"""Files of other programs, made from independent readings of these: names, values, and the same answers."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from weights import foreign_programs as foreign

from hardnet_suite import create_model, load_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, build_network
from hardnet_suite.weights import (
    convert_official,
    fill,
    identify,
    load_pretrained,
    open_weights,
    save_weights,
    to_official,
)
from hardnet_suite.weights.convert import from_target, in_target, require_same_network
from hardnet_suite.weights.file import BadFileError, WeightsFile
from hardnet_suite.weights.layouts import FOREIGN, LAYOUTS, keys_of

CLASSIFIERS = ["hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85"]


def filled(program):
    """A reading with formula weights in double precision, and these."""
    state = foreign.formula_weights(program.state_dict())
    program.double().load_state_dict(state)
    return program.eval(), state


def images(side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64) * 4 - 2


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for layout in LAYOUTS for name in ARCHS if LAYOUTS[layout].has(name)]
)
def test_keys_are_one_to_one(name, layout):
    theirs = keys_of(name, LAYOUTS[layout])
    assert theirs
    assert len({*theirs.values()}) == len(theirs)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_pytorchcv_computes_the_same(name, tmp_path):
    program, state = filled(foreign.pytorchcv(name, classes=10))
    torch.save(state, tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    assert (weights.model, weights.form, weights.num_classes) == (name, "pytorchcv", 10)
    network = create_model(name, pretrained=tmp_path / "file.pth").double().eval()
    network.load_state_dict(weights.tensors)  # in double precision
    with torch.no_grad():
        expected = program(images())
        torch.testing.assert_close(network(images()), expected, rtol=1e-9, atol=1e-9)
        own = build_network(name, num_classes=10).double().eval()
        own.load_state_dict(weights.tensors)
        assert torch.allclose(own(images()), expected) == name.endswith("ds")  # ReLU in blocks of 68 and 85
    assert same(in_target(name, weights.tensors, "pytorchcv"), state)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_paddleclas_computes_the_same(name):
    program, state = filled(foreign.paddleclas(name, classes=10))
    linear = next(key for key, value in state.items() if value.ndim == 2)
    arrays = foreign.paddle_arrays(state, (linear,))
    assert arrays[linear].shape == (program.base[-1][-1].in_features, 10)
    found = identify({key: torch.from_numpy(value) for key, value in arrays.items()})
    assert (found.model, found.form, found.num_classes, found.arch) == (name, "paddleclas", 10, None)
    network = build_network(name, num_classes=10).double().eval()
    network.load_state_dict(found.tensors, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(network(images()), program(images()), rtol=1e-9, atol=1e-9)
    back = in_target(name, network.state_dict(), "paddleclas")
    assert same(back, {key: torch.from_numpy(value) for key, value in arrays.items()})


def test_paddledetection_trunk_computes_the_same():
    program, state = filled(foreign.paddledetection())
    name, layout = "centernet_hardnet85", FOREIGN["paddledetection"]
    arrays = {key: torch.from_numpy(value) for key, value in foreign.paddle_arrays(state).items()}
    tensors = from_target(name, arrays, layout.name)
    options = {"features_only": "block", "out_indices": (1, 2, 3)}
    trunk = build_network(name, arch=layout.arch_of(name), **options).double().eval()
    official = build_network(name, **options).double().eval()
    for network in (trunk, official):
        own = {key.removeprefix("trunk."): value for key, value in tensors.items()}
        assert own.keys() == {key for key in network.state_dict() if "num_batches" not in key}
        network.load_state_dict(own, strict=False)
    with torch.no_grad():
        expected = program(images(70))[1:]  # odd sides: pools round up, and windows reach over the border
        for ours, theirs in zip(trunk(images(70)), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(official(images(70))[0], expected[0])  # ReLU, and padding counts
    assert same(in_target(name, tensors, layout.name), arrays)


def beside(state, prefix, *names):
    """The tensors of a trunk in a larger network."""
    return {f"{prefix}{key}": value for key, value in state.items()} | {
        f"{name}weight": torch.ones(3, 2) for name in names
    }


@pytest.mark.parametrize(
    ("name", "prefix", "marks", "cut"),
    [
        ("hardnet68", "hardnet.", ("rfb2_1.", "rfb3_1.", "rfb4_1.", "agg1.", "ra4_conv1."), False),
        ("hardnet85", "backbone.", ("decoder.up1.conv1.", "decoder.final.conv1."), True),
        (
            "hardnet39ds",
            "module.backbone.",
            ("module.decoder.up1.conv1.", "module.decoder.final.conv1."),
            True,
        ),
    ],
)
def test_the_trunk_in_a_network_of_another_program(tmp_path, name, prefix, marks, cut):
    program, state = filled(foreign.official(name))
    last = len(program.base) - 1
    state = {key: value for key, value in state.items() if not (cut and key.startswith(f"base.{last}."))}
    torch.save(beside(state, prefix, *marks), tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    assert (weights.model, weights.form, weights.arch) == (name, "trunk", None)
    assert all(key.startswith("trunk.") for key in weights.tensors)
    assert {key.split(".")[0] for key in weights.left} == {
        mark.removeprefix("module.").split(".")[0] for mark in marks
    }
    with pytest.raises(UserError, match=f"not the weights of {name} .only a trunk, in "):
        weights.require_whole()
    trunk = create_model(name, features_only=True, out_indices=[4], pretrained=tmp_path / "file.pth")
    trunk.double().eval().load_state_dict(
        {key.removeprefix("trunk."): value for key, value in weights.tensors.items()}
    )
    with torch.no_grad():
        expected = torch.nn.Sequential(*program.base[:last])(images())
        torch.testing.assert_close(trunk(images())[0], expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(UserError, match="its trunk is not that of hardnet68ds"):
        open_weights(tmp_path / "file.pth", "hardnet68ds")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (("backbone.base.0.conv.", "head.lawin_8.g.conv.", "last3_seg."), "HarDNet-DFUS .* is KingNet-53"),
        (
            ("hardnet.base.0.conv.", "rfb2_1.", "rfb3_1.", "rfb4_1.", "agg1."),
            "not that of a model of this suite",
        ),
    ],
)
def test_networks_that_the_suite_does_not_have_are_named(tmp_path, keys, reason):
    torch.save({f"{key}weight": torch.ones(2, 2) for key in keys}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=reason):
        open_weights(tmp_path / "file.pth")


@pytest.mark.parametrize("outer", ["", "detector."])
def test_fairmot_of_paddledetection(tmp_path, outer):
    import pickle

    _, state = filled(foreign.paddledetection())
    necks = (f"{outer}neck.last_proj.conv.", f"{outer}neck.denseBlocksUp.0.")
    tracker = ("reid.classifier.", "loss.") if outer else ()
    arrays = foreign.paddle_arrays(beside(state, f"{outer}backbone.", *necks, *tracker))
    names = {key: f"conv2d_{index}.w_0" for index, key in enumerate(arrays)}
    path = tmp_path / "fairmot.pdparams"
    path.write_bytes(pickle.dumps(arrays | {"StructuredToParameterName@@": names}, protocol=4))
    weights = open_weights(path)
    assert (weights.model, weights.form) == ("centernet_hardnet85", "trunk")
    assert (weights.arch.trunk.act, weights.arch.trunk.pool) == ("relu6", "average_inside")
    assert same(
        in_target(weights.model, weights.tensors, "paddledetection"),
        {
            key.removeprefix(f"{outer}backbone."): torch.from_numpy(value)
            for key, value in arrays.items()
            if "back" in key
        },
    )
    trunk = create_model(weights.model, features_only="block", out_indices=(1, 2, 3), pretrained=path)
    assert trunk.arch.act == "relu6"
    detector = build_network(weights.model)
    with pytest.warns(
        UserWarning, match="activation relu6 .*pooling average_inside, this one has activation relu"
    ):
        fill(detector, weights, allow="heads")  # to be trained further


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """hardnet39ds as STMicroelectronics has it: ONNX with folded batch norms; and its program."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    program, _ = filled(foreign.official("hardnet39ds", classes=10))
    program = torch.nn.Sequential(*program.base).float().eval()
    folded = copy.deepcopy(program)
    for module in list(folded.modules()):
        names = [name for name, _ in module.named_children()]
        if names[1:2] == ["norm"]:
            setattr(module, names[0], fuse_conv_bn_eval(getattr(module, names[0]), module.norm))
            module.norm = torch.nn.Identity()
    path = tmp_path_factory.mktemp("graph") / "hardnet39ds_pt_224.onnx"
    example = (torch.rand(1, 3, 64, 64),)
    torch.onnx.export(folded, example, path, dynamo=True, external_data=False, verbose=False)
    return path, program


def test_a_graph_with_folded_norms(graph):
    path, program = graph
    weights = open_weights(WeightsFile.read(path, graphs=True))
    assert (weights.model, weights.form) == ("hardnet39ds", "onnx")
    assert (weights.num_classes, weights.arch) == (10, None)
    assert weights.metadata["activation"] == "relu6"
    assert int(weights.metadata["folded"]) == sum(isinstance(m, torch.nn.Conv2d) for m in program.modules())
    network = build_network("hardnet39ds", num_classes=10).double().eval()
    fill(network, weights)
    with torch.no_grad():
        expected = copy.deepcopy(program).double()(images())
        torch.testing.assert_close(network(images()), expected, rtol=2e-3, atol=2e-3)  # folded in float32


def changed(path, change):
    import onnx

    model = onnx.load(path)
    change(model.graph, onnx.helper)
    return model.SerializeToString()


def _relu(graph, helper):
    for node in graph.node:
        if node.op_type == "Clip":
            node.op_type = "Relu"
            del node.input[1:]


def _one_relu(graph, helper):
    node = next(node for node in graph.node if node.op_type == "Clip")
    node.op_type = "Relu"
    del node.input[1:]


def _quantised(graph, helper):
    graph.node.append(helper.make_node("DequantizeLinear", ["x", "s"], ["y"]))


def _computed_weight(graph, helper):
    next(node for node in graph.node if node.op_type == "Conv").input[1] = "elsewhere"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_one_relu, "its activations are relu, relu6, expected one"),
        (_quantised, r"its weights are quantised \(DequantizeLinear\)"),
        (_computed_weight, "a convolution in it is of another kind"),
        (None, "corrupt or cut short|holds no named tensors|its activations are none"),
    ],
)
def test_graphs_that_are_refused(graph, tmp_path, change, reason):
    path, _ = graph
    file = tmp_path / "file.onnx"
    file.write_bytes(changed(path, change) if change else path.read_bytes()[:1000])
    with pytest.raises(BadFileError, match=reason):
        _ = WeightsFile.read(file, graphs=True).content
    with pytest.raises(UserError, match="for an inference engine, not weights"):
        open_weights(file)  # where weights are expected, a graph is a mistake


def test_the_keys_of_a_graph_without_it(graph, tmp_path):
    torch.save(WeightsFile.read(graph[0], graphs=True).content["state_dict"], tmp_path / "file.pth")
    with pytest.raises(UserError, match="its keys are those of a graph, but it is none"):
        open_weights(tmp_path / "file.pth")


@pytest.mark.parametrize(
    "beside_it", ["seg_head.conv.weight", "decoder.0.up.weight", "rfb2_1.branch0.weight"]
)
@pytest.mark.parametrize("prefix", ["encoder.", "net.backbone.", "hardnet."])
@pytest.mark.parametrize("layout", ["official", "network", "pytorchcv"])
def test_a_trunk_in_a_network_that_nobody_knows(tmp_path, layout, prefix, beside_it):
    """Its classes are of a layer that the larger network does not read: no predictions."""
    own = build_network("hardnet39ds", num_classes=5).state_dict()
    state = {f"{prefix}{key}": value for key, value in in_target("hardnet39ds", own, layout).items()}
    torch.save(state | {beside_it: torch.ones(3, 2, 1, 1)}, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match=f"the network is {prefix[:4]}.*left out are .*{beside_it}"):
        weights = open_weights(tmp_path / "file.pth")
    assert (weights.model, weights.form, weights.num_classes) == ("hardnet39ds", "trunk", None)
    assert set(weights.left) == {beside_it}
    assert same(weights.tensors, {key: own[key] for key in own if key.startswith("trunk.")})
    with pytest.raises(UserError, match=f"only a trunk, in a larger network: beside it are {beside_it}"):
        load_model(tmp_path / "file.pth")
    with pytest.warns(UserWarning, match="left out are"):
        named = create_model("hardnet39ds", pretrained=tmp_path / "file.pth")  # the caller's word counts
    assert torch.equal(named.state_dict()["fc.weight"], own["fc.weight"])
    maps = create_model("hardnet39ds", features_only=True, pretrained=tmp_path / "file.pth")
    assert all(torch.equal(value, own[f"trunk.{key}"]) for key, value in maps.state_dict().items())


def cut_trunk(name, layout, *, keep_start):
    """A classifier's trunk under a layout's keys, whole or without their common start."""
    own = build_network(name).state_dict()
    trunk = {key: value for key, value in own.items() if key.startswith("trunk.")}
    theirs = in_target(name, trunk, layout)
    start = "" if keep_start else next(iter(theirs)).split(".")[0] + "."
    return trunk, {key.removeprefix(start): value for key, value in theirs.items()}


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68"])
@pytest.mark.parametrize("layout", ["official", "network", "pytorchcv", "paddleclas"])
@pytest.mark.parametrize(
    ("prefix", "keep_start"), [("hardnet.", True), ("backbone.", False), ("a.enc.", False)]
)
def test_a_trunk_without_its_last_layer_in_an_unknown_network(tmp_path, name, layout, prefix, keep_start):
    trunk, theirs = cut_trunk(name, layout, keep_start=keep_start)
    state = {f"{prefix}{key}": value for key, value in theirs.items()}
    torch.save(state | {"head.0.conv.weight": torch.ones(3, 2, 1, 1)}, tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    assert (weights.model, weights.form, weights.container.name) == (name, "trunk", "a larger network")
    assert set(weights.left) == {"head.0.conv.weight"}
    assert same(weights.tensors, {key: trunk[key] for key in weights.tensors})
    maps = create_model(name, features_only=True, pretrained=tmp_path / "file.pth", arch=weights.arch)
    learned = {key: value for key, value in maps.state_dict().items() if "num_batches" not in key}
    assert all(torch.equal(value, trunk[f"trunk.{key}"]) for key, value in learned.items())
    with pytest.raises(UserError, match="only a trunk, in a larger network"):
        load_model(tmp_path / "file.pth")


@pytest.mark.parametrize("classes", [5, 1000])
def test_the_untrained_last_layer_among_a_trunks_modules_is_left_out(tmp_path, classes):
    own = build_network("hardnet39ds", num_classes=classes).state_dict()
    state = in_target("hardnet39ds", own, "official")
    state = {f"encoder.{key.removeprefix('base.')}": value for key, value in state.items()}
    torch.save(state | {"head.weight": torch.ones(2, 3)}, tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    assert (weights.model, weights.form) == ("hardnet39ds", "trunk")
    assert same(weights.tensors, {key: own[key] for key in own if key.startswith("trunk.")})


def test_a_trunk_that_is_cut_short_or_goes_on_is_none(tmp_path):
    _, theirs = cut_trunk("hardnet39ds", "official", keep_start=False)
    last = max(int(key.split(".")[0]) for key in theirs)
    short = {key: value for key, value in theirs.items() if not key.startswith(f"{last}.")}
    longer = theirs | {f"{last + 1}.conv.weight": torch.ones(3, 2, 1, 1)}
    for state in (short, longer):
        state = {f"encoder.{key}": value for key, value in state.items()}
        torch.save(state | {"head.weight": torch.ones(2, 3)}, tmp_path / "file.pth")
        with pytest.raises(UserError, match="not the weights of any model of this suite"):
            open_weights(tmp_path / "file.pth")


def test_two_trunks_in_an_unknown_network(tmp_path):
    trunk, theirs = cut_trunk("hardnet39ds", "official", keep_start=True)
    head = {"head.weight": torch.ones(2, 3)}
    one, other = ({f"{name}.{key}": value for key, value in theirs.items()} for name in ("left", "right"))
    torch.save(one | other | head, tmp_path / "file.pth")
    assert same(open_weights(tmp_path / "file.pth").tensors, trunk)  # one network of two names
    key = next(iter(other))
    torch.save(one | other | {key: other[key] + 1} | head, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"several networks, left\.base\.\* and right\.base\.\*"):
        open_weights(tmp_path / "file.pth")


@pytest.mark.parametrize("layout", ["network", "pytorchcv"])
@pytest.mark.parametrize(
    ("prefixes", "losses"),
    [
        (("a.", "b."), {}),
        (("a.", "b.", "c."), {}),
        (("net.model.", "ema."), {}),
        (("net.model.", "ema."), {"loss.weight": torch.ones(5)}),
    ],
)
def test_copies_of_a_whole_network_are_the_network(tmp_path, layout, prefixes, losses):
    own = build_network("hardnet39ds", num_classes=5).state_dict()
    theirs = in_target("hardnet39ds", own, layout)
    state = {f"{prefix}{key}": value for prefix in prefixes for key, value in theirs.items()}
    torch.save(state | losses, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match=r"the network is \w+\.\*; left out are the tensors beside it: \w"):
        weights = open_weights(tmp_path / "file.pth")
    assert (weights.model, weights.form, weights.num_classes) == ("hardnet39ds", layout, 5)
    assert same(weights.tensors, own)
    load_model(tmp_path / "file.pth")
    assert torch.equal(create_model("hardnet39ds", pretrained=tmp_path / "file.pth").fc.bias, own["fc.bias"])


def test_copies_of_a_network_beside_further_layers_are_a_trunk(tmp_path):
    own = build_network("hardnet39ds", num_classes=5).state_dict()
    state = {f"{prefix}{key}": value for prefix in ("a.", "b.") for key, value in own.items()}
    torch.save(state | {"head.weight": torch.ones(2, 3)}, tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    assert (weights.form, weights.num_classes) == ("trunk", None)
    assert set(weights.left) == {key for key in state if key.startswith("b.")} | {"head.weight"}
    assert set(weights.unused) == {"a.fc.weight", "a.fc.bias"}


def test_copies_of_a_damaged_classifier_are_no_trunk(tmp_path):
    own = build_network("hardnet39ds").state_dict()
    del own["fc.bias"]
    torch.save({f"{prefix}{key}": own[key] for prefix in ("a.", "b.") for key in own}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"of hardnet39ds in the layout network, but 1 missing \(fc\.bias\)"):
        open_weights(tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"do not fit HarDNetClassifier: 1 missing \(fc\.bias\)"):
        create_model("hardnet39ds", pretrained=tmp_path / "file.pth")


def test_copies_of_a_trunk_alone_are_one(tmp_path):
    trunk, theirs = cut_trunk("hardnet39ds", "pytorchcv", keep_start=True)
    state = {f"{prefix}{key}": value for prefix in ("a.", "b.") for key, value in theirs.items()}
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"of hardnet39ds in the layout pytorchcv, but 2 missing"):
        open_weights(tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth", "hardnet39ds")
    assert (weights.form, weights.container) == ("trunk", None)
    assert same(weights.tensors, trunk)
    assert weights.left.keys() == {key for key in state if key.startswith("b.")}


@pytest.mark.parametrize(
    "change", [lambda value: value.to_sparse(), lambda value: value.to(torch.float8_e4m3fn)]
)
def test_copies_that_cannot_be_compared_are_several_networks(tmp_path, change):
    own = build_network("hardnet39ds", num_classes=5).state_dict()
    own["fc.weight"] = change(own["fc.weight"])
    torch.save({f"{prefix}{key}": own[key] for prefix in ("a.", "b.") for key in own}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"several networks, a\.\* and b\.\*"):
        open_weights(tmp_path / "file.pth")


def test_a_network_that_is_nearly_whole_is_not_called_a_trunk_without_a_word(tmp_path):
    state = in_target("hardnet_mseg", build_network("hardnet_mseg").state_dict(), "official")
    key = next(key for key in state if key.startswith("agg1.") and key.endswith("weight"))
    torch.save({name: value for name, value in state.items() if name != key}, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match="nearly the weights of hardnet_mseg .*only their trunk is taken"):
        assert open_weights(tmp_path / "file.pth").form == "trunk"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("finalConv.bias"), r"1 missing \(classifier.bias\)"),
        (lambda state: state.update({"loss.weight": torch.ones(19)}), r"1 unexpected \(loss.weight\)"),
        (lambda state: state.update({"finalConv.weight": torch.ones(19, 5, 1, 1)}), "1 of another shape"),
        (
            lambda state: state.update({"finalConv.bias": torch.ones(5)}),
            "classifier.weight, classifier.bias are of different numbers of classes",
        ),
    ],
)
def test_a_nearly_whole_network_on_the_trunk_of_a_classifier(tmp_path, change, what):
    """FC-HarDNet-70's trunk is that of a classifier, hardnet_petite."""
    state = in_target("fchardnet70", build_network("fchardnet70").state_dict(), "official")
    change(state)
    torch.save(state, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match=f"nearly the weights of fchardnet70 .*{what}.*only their trunk is"):
        assert open_weights(tmp_path / "file.pth").form == "trunk"


@pytest.mark.parametrize("model", ["hardnet85", "hardnet_petite"])
def test_another_network_on_a_known_trunk_is_nearly_none(tmp_path, recwarn, model):
    state = in_target(model, build_network(model).state_dict(), "official")
    others = {f"decoder.{index}.conv.weight": torch.ones(4, 4, 1, 1) for index in range(40)}
    torch.save(state | others, tmp_path / "file.pth")
    assert open_weights(tmp_path / "file.pth").container.name == "a larger network"
    assert not any("nearly" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize(
    "beside_it", [{"loss.weight": torch.ones(5)}, {"metric.confusion": torch.ones(5, 5)}, {}]
)
def test_a_classifier_beside_its_losses_is_whole(tmp_path, beside_it):
    state = build_network("hardnet39ds", num_classes=5).state_dict()
    torch.save({f"net.{key}": value for key, value in state.items()} | beside_it, tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    assert (weights.form, weights.num_classes) == ("network", 5)


def test_the_activation_follows_the_graph(graph, tmp_path):
    path, _ = graph
    file = tmp_path / "file.onnx"
    file.write_bytes(changed(path, _relu))
    weights = open_weights(WeightsFile.read(file, graphs=True))
    assert weights.arch == replace(ARCHS["hardnet39ds"], act="relu")


def test_weights_of_another_network_are_no_silent_answer(tmp_path):
    state = in_target("hardnet68", build_network("hardnet68").state_dict(), "pytorchcv")
    torch.save(state, tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    with pytest.raises(UserError, match="activation in blocks relu, this one has activation in blocks relu6"):
        fill(build_network("hardnet68"), weights)
    fill(build_network("hardnet68", arch=weights.arch), weights)
    assert load_model(tmp_path / "file.pth").network.arch == weights.arch
    said = create_model("hardnet68", pretrained=tmp_path / "file.pth", arch=ARCHS["hardnet68"])
    assert said.arch == ARCHS["hardnet68"]  # the caller's word counts
    with pytest.raises(ValueError, match="activation in blocks relu6, but the hardnet68 of pytorchcv has"):
        require_same_network("hardnet68", None, "pytorchcv")
    with pytest.raises(ValueError, match="it would compute other answers"):
        convert_official("hardnet68", {}, target="pytorchcv")
    with pytest.raises(ValueError, match="it would compute other answers"):
        to_official("hardnet68", {}, target="pytorchcv")


@pytest.mark.parametrize("arch", [ARCHS["hardnet68"], replace(ARCHS["hardnet68"], growth_mul=1.5)])
@pytest.mark.parametrize("said_by", ["keys", "metadata"])
def test_a_network_is_filled_with_weights_that_compute_as_it_does(tmp_path, arch, said_by):
    """Its shapes say nothing of its activations: those are the file's word, at other widths too."""
    path, theirs = tmp_path / "file.safetensors", replace(arch, block_act="relu")
    state = build_network("hardnet68", arch=arch, num_classes=7).state_dict()
    if said_by == "keys":
        save_weights(in_target("hardnet68", state, "pytorchcv"), path)
    else:
        save_weights(state, path, metadata={"computes_as": "pytorchcv"})
    network = build_network("hardnet68", arch=arch, num_classes=7)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(UserError, match="activation in blocks relu, this one has activation in blocks relu6"):
        load_pretrained(network, "hardnet68", path)
    assert same(network.state_dict(), before)
    load_pretrained(build_network("hardnet68", arch=theirs, num_classes=7), "hardnet68", path)
    save_weights(state, path)
    load_pretrained(network, "hardnet68", path)


@pytest.mark.parametrize("name", ["fchardnet70_stride2", "fchardnet70_paddleseg"])
def test_another_stem_under_keys_that_do_not_tell(name):
    """What the authors' program reads under its keys is fchardnet70."""
    reason = "stem stride 2.*, but the fchardnet70 of the authors' programs has stem stride 4"
    with pytest.raises(ValueError, match=reason):
        require_same_network(name, None, "official")
    with pytest.raises(ValueError, match=reason):
        to_official(name, build_network(name).state_dict())


def test_padding_is_a_way_of_computing():
    with pytest.raises(ValueError, match="padding of strided convolutions on both sides"):
        require_same_network("fchardnet70_stride2", None, "paddleseg")
    require_same_network("fchardnet70_paddleseg", None, "paddleseg")
    for name in ("fchardnet70_stride2", "fchardnet70_paddleseg"):
        require_same_network(name, None, "mmseg")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("base.3.layers.0.conv.weight"),
        lambda state: state.update({"base.3.layers.99.conv.weight": torch.ones(2)}),
        lambda state: state.update({"base.3.layers.0.norm._mean": torch.ones(2)}),
        lambda state: state.update({"base.16.3.weight": torch.ones(10, 1024)}),  # not transposed
    ],
    ids=["missing", "extra", "shape", "not transposed"],
)
def test_files_that_do_not_fit_exactly(change):
    state = in_target("hardnet68", build_network("hardnet68", num_classes=10).state_dict(), "paddleclas")
    assert identify(state).form == "paddleclas"
    change(state)
    with pytest.raises(UserError, match="not the weights of any model"):
        identify(state)


def _stride_1(graph, helper):
    node = next(node for node in graph.node if node.op_type == "Conv")
    next(each for each in node.attribute if each.name == "strides").ints[:] = [1, 1]


def _pooled(graph, helper):
    first = next(node for node in graph.node if node.op_type == "Clip")
    pool = helper.make_node("MaxPool", [first.output[0]], ["pooled"], kernel_shape=[2, 2], strides=[1, 1])
    for node in graph.node:
        node.input[:] = ["pooled" if name == first.output[0] else name for name in node.input]
    graph.node.insert(list(graph.node).index(first) + 1, pool)


def _scaled(graph, helper):
    """Numbers of pixels into those of inputs, within the graph."""
    image = graph.input[0].name
    graph.initializer.append(helper.make_tensor("scale", 1, [], [2.0]))
    for node in graph.node:
        node.input[:] = ["scaled" if name == image else name for name in node.input]
    graph.node.insert(0, helper.make_node("Mul", [image, "scale"], ["scaled"]))


def _links_reversed(graph, helper):
    node = next(node for node in graph.node if node.op_type == "Concat")
    node.input[:] = [*node.input][::-1]


def _one_link_swapped(graph, helper):
    last = [node for node in graph.node if node.op_type == "Concat"][-1]
    last.input[:] = [last.input[1], last.input[0], *list(last.input)[2:]]


def _sigmoid(graph, helper):
    graph.node.append(helper.make_node("Sigmoid", [graph.output[0].name], ["end"]))
    graph.output[0].name = "end"


@pytest.mark.parametrize(
    "change", [_stride_1, _pooled, _scaled, _links_reversed, _one_link_swapped, _sigmoid]
)
def test_a_graph_of_the_same_shapes_that_computes_otherwise(graph, tmp_path, change):
    file = tmp_path / "file.onnx"
    file.write_bytes(changed(graph[0], change))
    with pytest.raises(UserError, match="shapes of hardnet39ds, but its graph computes something else"):
        open_weights(WeightsFile.read(file, graphs=True))


def _two_outputs(graph, helper):
    name = next(node for node in graph.node if node.op_type == "Clip").output[0]
    graph.output.append(helper.make_tensor_value_info(name, 1, None))


def _unknown_operator(graph, helper):
    graph.node.append(helper.make_node("NoSuchOperator", [graph.output[0].name], ["end"]))
    graph.output[0].name = "end"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_two_outputs, r"does not map images \(N, 3, H, W\) of floats to one output"),
        (_unknown_operator, "ONNX Runtime cannot open"),
    ],
)
def test_a_graph_that_cannot_be_compared(graph, tmp_path, change, reason):
    file = tmp_path / "file.onnx"
    file.write_bytes(changed(graph[0], change))
    with pytest.raises(UserError, match=f"shapes of hardnet39ds, but .*{reason}"):
        open_weights(WeightsFile.read(file, graphs=True))


def _softmax(graph, helper):
    graph.node.append(helper.make_node("Softmax", [graph.output[0].name], ["end"], axis=1))
    graph.output[0].name = "end"


@pytest.mark.parametrize(("change", "returns"), [(None, "logits"), (_softmax, "probabilities")])
def test_what_a_graph_returns(graph, tmp_path, change, returns):
    file = tmp_path / "file.onnx"
    file.write_bytes(changed(graph[0], change) if change else graph[0].read_bytes())
    weights = open_weights(WeightsFile.read(file, graphs=True))
    assert weights.metadata["returns"] == returns
