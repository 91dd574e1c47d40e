"""``plot WORK_DIR`` on a real run's log."""

from __future__ import annotations

import json

from PIL import Image


def test_plot_of_a_run(cli, trained, tmp_path):
    out = tmp_path / "curves.png"
    status, text, err = cli("plot", trained, "--out", out)
    assert (status, text, err) == (0, f"plot: {out}\n", "")
    assert Image.open(out).size[0] > 1000


def test_a_resumed_run_has_several_logs(cli, monkeypatch, tmp_path):
    from hardnet_suite.visualization import curves

    for name, steps in (("2_second", (3, 4)), ("1_first", (1, 2))):
        folder = tmp_path / name / "vis_data"
        folder.mkdir(parents=True)
        rows = [json.dumps({"loss": 1.0 / step, "step": step}) for step in steps]
        (folder / "scalars.json").write_text("\n".join(rows))
    drawn = []
    monkeypatch.setattr(curves, "plot_training", lambda rows, out, title: drawn.extend([rows, out, title]))
    assert cli("plot", tmp_path)[0] == 0
    rows, out, title = drawn
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (out, title) == (tmp_path / "training.png", tmp_path.name)


def test_nothing_to_plot(error_of, tmp_path):
    assert f"no training log under {tmp_path}" in error_of("plot", tmp_path)
    assert "no training log" in error_of("plot", tmp_path / "none")
    folder = tmp_path / "1" / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("garbage")
    assert "line 1 is not JSON" in error_of("plot", tmp_path)
    (folder / "scalars.json").write_text('{"lr": 0.1}')
    assert "got none among 1 row" in error_of("plot", tmp_path)


def test_plot_that_cannot_be_written(error_of, trained):
    out = trained / "tiny.py" / "curves.png"
    assert f"cannot write {out}" in error_of("plot", trained, "--out", out)
    assert "cannot write" in error_of("plot", trained, "--out", trained / "curves.xyz")
