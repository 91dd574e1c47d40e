"""Writes docs/published_weights.md, a card per file of published weights, from the registry.

python docs/write_published_weights.py
"""

from __future__ import annotations

from pathlib import Path

from hardnet_suite.cli.identify import input_rule
from hardnet_suite.cli.models import FIGURES
from hardnet_suite.networks import default_usage, find_arch
from hardnet_suite.weights.layouts import LAYOUTS, OFFICIAL
from hardnet_suite.weights.registry import ROWS, WeightsRow

PAGE = Path(__file__).with_name("published_weights.md")
HEAD = """# Published weights

One card per published file that the [registry](models.md#weights) knows, written from it by
`docs/write_published_weights.py`. `hardnet-suite models` lists them, `hardnet-suite models --verify` compares
what is on the machine with their hashes. The weights that come with the package are in
[model cards](model_cards.md). Addresses are tried in their order. Those at web.archive.org come last: whether
the Internet Archive has the file is not known.
"""


def card(row: WeightsRow) -> str:
    """The card of a row, as Markdown."""
    layout = LAYOUTS[row.layout or OFFICIAL.name]
    arch = layout.arch(find_arch(row.model))
    trunk = getattr(arch, "trunk", arch)
    hashes = dict.fromkeys(
        f"{kind} `{value}`{' of the file in the .zip' if kind == 'SHA-1' else ''}"
        for address in row.urls
        for kind, value in (
            ("SHA-256", address.sha256_prefix),
            ("git blob", address.git_blob),
            ("SHA-1", address.sha1),
        )
        if value
    )
    part = " (the trunk alone)" if row.base_only else ""
    no_mirror = [f"No other copy is known: {row.no_mirror}"] if row.no_mirror else []
    rule = layout.preprocess_of(row.model) or default_usage(row.model).preprocess
    graph = layout.name == "onnx"
    fields = {
        "Task": f"{row.task}{part}",
        "File": f"`{row.file}`",
        "Addresses": "<br>".join([*(address.url for address in row.urls), *no_mirror]),
        "Hash": ", ".join(hashes) or f"none known: {row.no_hash}",
        "Layout": f"`{layout.name}`: {layout.program}",
        "Size": f"{FIGURES[row.model][1] / 1e6:.2f} M parameters (the whole network)",
        "Input": "not in the file" if graph else input_rule(rule),
        "Figure": row.metric or "none published",
        "Source": row.source,
        "Licence": row.licence,
        "Use": f'`create_model("{row.model}", pretrained="{row.tag}")`',
    }
    if graph:
        fields["Use"] = f"`hardnet-suite convert-weights {row.file} {row.model}.safetensors`, and that file"
    if hasattr(trunk, "act") and not graph:
        inside = f", {trunk.block_act} in blocks" if trunk.block_act else ""
        fields["Size"] += f"; activation {trunk.act}{inside}"
    table = "".join(f"| {name} | {value} |\n" for name, value in fields.items())
    return f"## {row.model}, tag `{row.tag}`\n\n| | |\n|---|---|\n{table}"


def page() -> str:
    return "\n".join([HEAD, *(card(row) for row in ROWS if not row.shipped)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
