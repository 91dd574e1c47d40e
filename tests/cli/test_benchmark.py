"""``benchmark``: its table, files and errors."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hardnet_suite.cli import benchmark as command
from hardnet_suite.deploy.benchmark import Comparison, Failure, Timing
from hardnet_suite.deploy.roofline import Roofline
from hardnet_suite.deploy.runners import Setting
from hardnet_suite.networks import build_network
from hardnet_suite.visualization.canvas import is_figure
from hardnet_suite.weights import save_weights

MACHINE = {"gpu": None, "cpu": "a CPU", "threads": 2, "load": 0.1, "versions": {"torch": "2.15.0"}}


def timing(model: str, *ms: float, engine: str = "eager", **changes) -> Timing:
    values = {"height": 224, "width": 224, "batch": 1, "parameters": 17_565_348, "macs": 4_246_114_304}
    seconds = tuple(each / 1e3 for each in ms)
    return Timing(model, Setting(engine), seconds=seconds, **(values | {"cio": 11_468_940} | changes))


@pytest.fixture
def compared(monkeypatch):
    """The arguments of ``compare``, which measures nothing."""
    from hardnet_suite.deploy import benchmark as module
    from hardnet_suite.deploy import roofline

    calls: list[dict] = []
    timings = [
        timing("hardnet68", 100, 110, 90, peak_memory=80 << 20, input_seconds=0.005),
        timing("hardnet68", 50, 60, 40, engine="fused"),
        timing("resnet50", 40, 50, 30),
    ]
    failures = [Failure("resnet50", Setting("fused"), 224, 224, 1, "no kernel")]

    def compare(models, **options):
        calls.append({"models": list(models), **options})
        return Comparison(timings, failures if "fused" in options["engines"] else [], MACHINE)

    monkeypatch.setattr(module, "compare", compare)
    monkeypatch.setattr(roofline, "measure_roofline", lambda *_: Roofline(8e9, 10e9, {"fp32": 1e11}))
    return calls


def test_the_table_has_a_line_per_timing_and_the_best_of_each(cli, compared):
    status, text, _ = cli("benchmark", "hardnet68", "--peers", "resnet50", "--roofline")
    assert status == 0
    lines = text.splitlines()
    assert lines[0] == "a CPU, 2 threads, load 0.1, torch 2.15.0"
    assert lines[1] == "bandwidth 10.0 GB/s; matrix products, GMAC/s: fp32 100.0"
    assert lines[3] == "224×224, batch 1"
    assert lines[4].split()[3:] == [
        *("ms", "min", "p95", "images/s", "ratio", "input", "ms", "peak", "MiB", "M", "params", "GMACs"),
        *("M", "CIO", "%", "of", "rate", "%", "of", "bandwidth"),
    ]
    first = lines[5].split()
    assert first[:3] == ["hardnet68", "eager", "fp32"]
    assert first[3:] == [
        *("100.00", "90.00", "110.00", "10.00", "1.00", "5.00", "80.00", "17.57", "4.25", "11.47"),
        *("42.46", "11.61"),
    ]
    assert lines[6].split()[7:10] == ["0.50", "n/a", "n/a"]
    assert lines[8] == (
        "best: hardnet68 (fused fp32, 50.00 ms) takes 1.25 of resnet50's time (eager fp32, 40.00 ms)"
    )


GPU = MACHINE | {"gpu": "a GPU"}


@pytest.mark.parametrize(
    ("devices", "measured", "first", "second", "shares"),
    [
        (["cpu", "cuda"], "cuda", "a CPU and a GPU, 2", "a GPU: bandwidth 10.0", [False, True]),
        (["cuda:1", "cpu"], "cuda:1", "a GPU and a CPU, 2", "a GPU: bandwidth 10.0", [True, False]),
        (["cuda", "cuda"], "cuda", "a GPU, 2", "bandwidth 10.0", [True, True]),
        (["cpu", "cpu"], "cpu", "a CPU, 2", "bandwidth 10.0", [True, True]),
    ],
)
def test_the_limits_are_those_of_the_device(
    cli, monkeypatch, tmp_path, devices, measured, first, second, shares
):
    from hardnet_suite.deploy import benchmark as module
    from hardnet_suite.deploy import roofline
    from hardnet_suite.visualization import speed

    made = [timing(f"m{index}", 10) for index in range(2)]
    made = [
        dataclasses.replace(each, setting=dataclasses.replace(each.setting, device=device))
        for each, device in zip(made, devices, strict=True)
    ]
    monkeypatch.setattr(module, "compare", lambda models, **_: Comparison(made, [], GPU))
    monkeypatch.setattr(
        roofline, "measure_roofline", lambda device, *_: Roofline(8e9, 10e9, {"fp32": 1e11}, device)
    )
    drawn = []
    monkeypatch.setattr(speed, "plot_roofline", lambda *given: drawn.append(given))
    status, text, _ = cli(
        "benchmark", "hardnet68", "--roofline", tmp_path / "a.png", "--json", tmp_path / "a.json"
    )
    assert status == 0
    lines = text.splitlines()
    assert lines[0].startswith(first)
    assert lines[1].startswith(second)
    assert [line.split()[-1] != "n/a" for line in lines[5:7]] == shares
    assert json.loads((tmp_path / "a.json").read_text())["roofline"]["device"] == measured
    ((_, _, points, _, title),) = drawn
    on_it = [each.model for each in made if each.setting.device == measured]
    assert [each.name for each in points] == on_it
    where = "a CPU, 2 threads" if measured == "cpu" else "a GPU"
    assert title == f"224×224, batch 1; {where}"


def test_what_could_not_be_measured_is_told(cli, compared):
    status, _, err = cli("benchmark", "hardnet68", "--engine", "eager", "fused")
    assert status == 0  # it could in another engine
    assert "not measured: resnet50 in fused fp32: no kernel" in err


def test_a_model_that_could_not_be_measured_at_all_is_an_exit_status(cli, compared, monkeypatch):
    from hardnet_suite.deploy import benchmark as module

    failure = Failure("vgg16", Setting(), 224, 224, 1, "out of memory")
    monkeypatch.setattr(
        module, "compare", lambda *_, **__: Comparison([timing("resnet50", 1.0)], [failure], MACHINE)
    )
    status, text, err = cli("benchmark", "vgg16", "resnet50")
    assert status == 1
    assert "not measured: vgg16 in eager fp32: out of memory" in err
    assert "resnet50 eager fp32" in text


def test_options_reach_the_library(cli, compared):
    cli(
        *("benchmark", "hardnet68", "hardnet68", "--peers", "resnet50", "--size", "224", "512x1024"),
        *(
            "--batch",
            "1",
            "8",
            "--engine",
            "eager",
            "--precision",
            "fp32",
            "bf16",
            "--layout",
            "nchw",
            "nhwc",
        ),
        *(
            "--rounds",
            "2",
            "--passes",
            "4",
            "--warmup",
            "0",
            "--no-memory",
            "--device",
            "cpu",
            "--threads",
            "1",
        ),
    )
    (call,) = compared
    call.pop("say")
    assert call == {
        "models": ["hardnet68", "resnet50"],
        "engines": ["eager"],
        "precisions": ["fp32", "bf16"],
        "channels_last": [False, True],
        "sizes": [(224, 224), (512, 1024)],
        "batches": [1, 8],
        "device": "cpu",
        "threads": 1,
        "rounds": 2,
        "passes": 4,
        "warmup": 0,
        "memory": False,
    }


def test_a_number_of_the_cpu_is_the_cpu(cli, tmp_path):
    """Nothing is taken for another device: neither the machine's line nor the steps of an engine."""
    options = ("--engine", "packed", "--rounds", 1, "--passes", 1, "--size", 64, "--no-memory")
    status, out, _ = cli("benchmark", "hardnet39ds", *options, "--device", "cpu:1", "--json", tmp_path / "a")
    assert status == 0
    report = json.loads((tmp_path / "a").read_text())
    assert out.startswith(f"{report['machine']['cpu']}, ")
    assert [row["device"] for row in report["timings"]] == ["cpu"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--protocol", "paper-1024"], ([(1024, 1024)], 30, 10)),
        (["--protocol", "nano-320"], ([(320, 320)], 50, 10)),
        (["--protocol", "paper-1024", "--rounds", "2"], ([(1024, 1024)], 2, 10)),
        (["--protocol", "nano-320", "--passes", "7"], ([(320, 320)], 72, 7)),
        ([], (None, 10, 3)),
        (["--rounds", "5"], (None, 5, 3)),
    ],
)
def test_protocols_set_size_and_passes(cli, compared, options, expected):
    cli("benchmark", "hardnet68", *options)
    assert (compared[0]["sizes"], compared[0]["rounds"], compared[0]["passes"]) == expected


def test_peers_without_names_are_those_of_the_tasks(cli, compared):
    cli("benchmark", "HarDNet68", "hardnet_descriptor", "--peers")
    assert {"resnet50", "vgg16", "mobilenet_v2"} <= set(compared[0]["models"])
    assert not {"ssd300_vgg16", "lraspp_mobilenet_v3_large"} & set(compared[0]["models"])


def test_files_are_written_and_replaced_by_later_ones_alone(cli, error_of, compared, tmp_path):
    files = {"--json": tmp_path / "a.json", "--plot": tmp_path / "a.png", "--roofline": tmp_path / "b.svg"}
    words = [word for pair in files.items() for word in pair]
    for _ in range(2):
        status, text, _ = cli("benchmark", "hardnet68", "resnet50", *words)
        assert status == 0
    assert f"json: {files['--json']}\nplot: {files['--plot']}\nroofline: {files['--roofline']}\n" in text
    content = json.loads(files["--json"].read_text())
    assert [row["model"] for row in content["timings"]] == ["hardnet68", "hardnet68", "resnet50"]
    assert content["roofline"]["bandwidth"] == 10e9
    assert is_figure(files["--plot"])
    assert is_figure(files["--roofline"])
    for option, path in files.items():
        path.write_text("mine")
        assert f"{path} exists, and no earlier benchmark wrote it" in error_of(
            "benchmark", "hardnet68", option, path
        )
        assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "options",
    [("--plot", "p.png", "--roofline", "p.png"), ("--json", "p.png", "--plot", "linked/p.png")],
)
def test_no_result_replaces_another_of_the_same_run(error_of, compared, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    first, second = options[::2]
    assert f"{first} and {second} are one file, {options[3]}" in error_of("benchmark", "hardnet68", *options)
    assert compared == []


@pytest.mark.parametrize("name", ["hardnet_descriptor", "hardnet39ds"])
def test_a_file_is_its_network_whatever_its_task(cli, compared, name, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(build_network(name).state_dict(), path, half=False)
    assert cli("benchmark", path)[0] == 0
    (model,) = compared[0]["models"]
    assert getattr(model, "network", model).usage.name == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.pth"], "nosuch.pth: no such file or folder"),
        (["hardnet68", "--peers", "runs/nosuch"], "runs/nosuch: no such file or folder"),
        (
            ["hardnet68", "--engine", "onnxruntime", "--layout", "nchw", "nhwc"],
            "the layout nhwc is for the engines of PyTorch",
        ),
        (["resnet5"], "unknown model 'resnet5'; did you mean resnet50"),
        (["hardnet68", "--peers", "restnet50"], "did you mean resnet50"),
        (["hardnet68", "--size", "big"], "--size big: expected a side such as 224, or HEIGHTxWIDTH"),
        (["hardnet68", "--size", "-5"], "--size"),
        (
            ["hardnet68", "--size", "224x224x3"],
            "--size 224x224x3: expected a side such as 224, or HEIGHTxWIDTH",
        ),
        (["hardnet68", "--size", "8"], "hardnet68 at 8×8: it takes 32×32 pixels or more"),
        (["hardnet68", "--batch", "0"], "batch 0: expected an integer from 1"),
        (["hardnet68", "--rounds", "0"], "rounds 0: expected an integer from 1"),
        (["hardnet68", "--engine", "none"], "unknown engine 'none'"),
        (["hardnet68", "--precision", "fp8"], "unknown precision 'fp8'"),
        (
            ["hardnet68", "--precision", "int8"],
            "no int8 in eager; the engines that have: onnxruntime, openvino",
        ),
        (["hardnet68", "--training", "--precision", "int8"], "unknown precision 'int8' of a training"),
        (["hardnet68", "--protocol", "nano-320", "--size", "64"], "--protocol nano-320 sets size and batch"),
        (["hardnet68", "--plot", "a.txt"], "--plot a.txt: the name must end in .png"),
        (["hardnet68", "--data-root", "x"], "--data-root goes with --training"),
        (["hardnet68", "--threads", "0"], "--threads 0"),
    ],
)
def test_bad_arguments_are_one_line(error_of, arguments, message, monkeypatch, tmp_path):
    from hardnet_suite.deploy import benchmark as module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "interleaved", lambda *args, **options: pytest.fail("timed"))
    assert message in error_of("benchmark", *arguments, "--device", "cpu")


def test_int8_has_a_best_of_its_own():
    """The fastest in float are compared first: a network in int8 is less accurate."""
    integer = Setting("openvino", "int8")
    timings = [timing("hardnet68", 9.0), timing("resnet50", 6.0)]
    timings.append(dataclasses.replace(timings[1], setting=integer, seconds=(0.003,)))
    assert [line.partition(" takes ")[::2] for line in command.summary(timings)] == [
        ("best: hardnet68 (eager fp32, 9.00 ms)", "1.50 of resnet50's time (eager fp32, 6.00 ms)"),
        (
            "best, int8 too: hardnet68 (eager fp32, 9.00 ms)",
            "3.00 of resnet50's time (openvino int8, 3.00 ms)",
        ),
    ]


def test_int8_is_not_drawn_at_the_accuracy_of_float(cli, compared, monkeypatch, tmp_path):
    from hardnet_suite.deploy import benchmark as module
    from hardnet_suite.visualization import speed

    drawn: list[dict] = []
    monkeypatch.setattr(speed, "plot_latency", lambda panels, *_: drawn.append(panels))
    timings = [timing("hardnet68", 9.0)]
    timings.append(dataclasses.replace(timings[0], setting=Setting("openvino", "int8")))
    monkeypatch.setattr(module, "compare", lambda *_, **__: Comparison(timings, [], MACHINE))
    assert cli("benchmark", "hardnet68", "--plot", tmp_path / "a.png")[0] == 0
    assert [point.setting for panel in drawn[0].values() for point in panel] == ["eager fp32"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["hardnet39dsa"], "no accuracy is published of hardnet39dsa"),
        (
            ["hardnet68", "resnet50", "--size", "64", "320x224"],
            "the accuracy of hardnet68, resnet50 is published at 224×224, not at 64×64; the accuracy of "
            "hardnet68, resnet50 is published at 224×224, not at 320×224",
        ),
        (["hardnet68", "--protocol", "paper-1024"], "published at 224×224, not at 1024×1024"),
        (
            ["hardnet68", "--precision", "int8", "--engine", "onnxruntime"],
            "the accuracy of hardnet68 is published in float, not in int8",
        ),
    ],
)
def test_nothing_to_plot_is_an_error_before_anything_is_timed(error_of, compared, options, message, tmp_path):
    path = tmp_path / "a.png"
    line = error_of("benchmark", *options, "--plot", path)
    assert line.startswith(f"error: --plot {path}: nothing can be drawn: ")
    assert message in line
    assert compared == []
    assert error_of("benchmark", "hardnet68", "--precision", "fp8", "--plot", path).startswith(
        "error: unknown precision"
    )


def test_nothing_of_what_was_measured_can_be_plotted(cli, monkeypatch, tmp_path):
    from hardnet_suite.deploy import benchmark as module

    made = Comparison(
        [timing("hardnet39dsa", 1.0)], [Failure("hardnet68", Setting(), 224, 224, 1, "no kernel")], MACHINE
    )
    monkeypatch.setattr(module, "compare", lambda *_, **__: made)
    path = tmp_path / "a.png"
    status, _, err = cli("benchmark", "hardnet68", "hardnet39dsa", "--plot", path)
    assert status == 2
    assert err.splitlines() == [
        "not measured: hardnet68 in eager fp32: no kernel",
        "not drawn: no accuracy is published of hardnet39dsa",
        f"error: --plot {path}: nothing that has a published accuracy was measured",
    ]
    assert not path.exists()


def test_a_chart_has_what_is_published_of_weights_at_their_size_alone(cli, monkeypatch, tmp_path):
    from hardnet_suite.deploy import benchmark as module
    from hardnet_suite.visualization import speed
    from hardnet_suite.weights import WeightsSource, find

    rows = [find("hardnet39ds", "tiny_imagenet10"), find("hardnet39ds", "pytorchcv"), None]
    files = [WeightsSource(tmp_path / "a.pth", "0" * 64, row) for row in rows]
    made = [timing("hardnet39ds", 9.0), timing("hardnet39ds", 3.0, height=128, width=128)]
    made += [timing(f"file {number}", 9.0, weights=file) for number, file in enumerate(files)]
    drawn: list[tuple] = []
    monkeypatch.setattr(speed, "plot_latency", lambda *given: drawn.append(given))
    monkeypatch.setattr(module, "compare", lambda *_, **__: Comparison(made, [], MACHINE))
    status, _, err = cli("benchmark", "hardnet39ds", "--plot", tmp_path / "a.png")
    assert status == 0
    ((panels, _, title),) = drawn
    points = [(each.name, each.setting, each.y) for each in panels["ImageNet top-1"]]
    assert points == [("hardnet39ds", "eager fp32", 72.1), ("file 1", "eager fp32", 73.2)]
    assert title == "224×224, batch 1; a CPU, 2 threads"
    assert err.splitlines() == [
        "not drawn: the accuracy of hardnet39ds is published at 224×224, not at 128×128; no accuracy is "
        "published of file 0, file 2"
    ]


def test_files_are_named_in_table_and_json(cli, tmp_path):
    from hardnet_suite.data.files import sha256

    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        network = build_network("hardnet39ds", num_classes=2)
        save_weights(network.state_dict(), folder / "best_of_a_run_with_a_rather_long_name.safetensors")
    paths = [next(folder.iterdir()) for folder in folders]
    path = tmp_path / "a.json"
    status, text, _ = cli(
        *("benchmark", "hardnet39ds", "HarDNet39DS", *paths, "--size", 64, "--rounds", 1, "--passes", 1),
        *("--no-memory", "--device", "cpu", "--json", path),
    )
    assert status == 0
    names = [f"hardnet39ds ({each.parent.name}/{each.name})" for each in paths]
    table = text.split("M CIO\n")[1].splitlines()
    assert [line.split(" eager fp32 ")[0].rstrip() for line in table[:3]] == ["hardnet39ds", *names]
    timed = json.loads(path.read_text())["timings"]
    assert [each["model"] for each in timed] == ["hardnet39ds", *names]
    assert [each["weights"] for each in timed] == [
        None,
        *({"path": str(each), "sha256": sha256(each), "tag": None} for each in paths),
    ]


def test_peers_without_names_are_those_of_the_task_of_a_file(cli, compared, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(build_network("hardnet39ds").state_dict(), path, half=False)
    assert cli("benchmark", path, "--peers")[0] == 0
    assert {"resnet50", "vgg16", "mobilenet_v2"} <= {*compared[0]["models"][1:]}


def test_a_real_run(cli, tmp_path):
    path = tmp_path / "a.json"
    status, text, _ = cli(
        *(
            "benchmark",
            "hardnet39ds",
            "--peers",
            "mobilenet_v2",
            "--size",
            "64",
            "--rounds",
            "1",
            "--passes",
            "1",
        ),
        *("--no-memory", "--device", "cpu", "--json", path, "--threads", "1"),
    )
    assert status == 0
    assert "hardnet39ds eager fp32" in text
    assert len(json.loads(path.read_text())["timings"]) == 2
    assert command.summary([timing("hardnet68", 1.0)]) == []


def test_training_is_a_table_too(cli, error_of, monkeypatch, tmp_path):
    from hardnet_suite.openmm.run import training_speed
    from hardnet_suite.openmm.run.training_speed import StepTiming, TrainingSetting

    calls: list = []

    def time_training(configs, **options):
        calls.append((configs, options))
        settings = [TrainingSetting(name, "eager", "bf16", True, 4, 512, 512) for name in configs]
        loaders = [12.0, None]
        return [
            StepTiming(each, (2.0 * (1 + index),), 10, loaders[index]) for index, each in enumerate(settings)
        ]

    monkeypatch.setattr(training_speed, "time_training", time_training)
    path = tmp_path / "a.json"
    words = (
        "--training",
        "ssd512_hardnet68",
        "--peers",
        "--batch",
        "4",
        "--precision",
        "bf16",
        "--json",
        path,
    )
    status, text, _ = cli("benchmark", *words, "--data-root", "data", "--device", "cpu")
    assert status == 0
    (configs, options) = calls[0]
    assert configs == ["ssd512_hardnet68", "ssd512_vgg16"]
    assert (options["batch"], options["precisions"], options["channels_last"]) == (4, ["bf16"], [True])
    assert (options["data_root"], options["size"]) == ("data", None)
    first, second = text.splitlines()[2:4]
    assert first.split()[4:] == [
        "2.00",
        "2000.00",
        "2000.00",
        "4",
        "512",
        "512",
        "1.00",
        "12.00",
        "6.00",
        "0.00",
    ]
    assert second.split()[10:13] == ["2.00", "n/a", "n/a"]
    assert [row["config"] for row in json.loads(path.read_text())["training"]] == configs
    for option in (("--protocol", "nano-320"), ("--plot", "a.png"), ("--roofline",)):
        message = error_of("benchmark", "ssd512_hardnet68", "--training", *option)
        assert f"{option[0]} is of forward passes" in message
    assert "one --size and one --batch" in error_of("benchmark", "a", "--training", "--batch", "1", "2")
