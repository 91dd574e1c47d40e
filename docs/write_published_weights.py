"""Writes docs/published_weights.md, a card per file of published weights, from the registry.

python docs/write_published_weights.py
"""

from __future__ import annotations

from pathlib import Path

from hardnet_suite.cli.identify import input_rule
from hardnet_suite.cli.models import FIGURES
from hardnet_suite.networks import default_usage, find_arch
from hardnet_suite.weights.layouts import FOREIGN, OFFICIAL
from hardnet_suite.weights.registry import ROWS, WeightsRow

PAGE = Path(__file__).with_name("published_weights.md")
HEAD = """# Published weights

One card per published file that the [registry](models.md#weights) knows, written from it by
`docs/write_published_weights.py`. `hardnet-suite models` lists them, `hardnet-suite models --verify` compares
what is on the machine with their hashes. The weights that come with the package are in
[model cards](model_cards.md).
"""


def card(row: WeightsRow) -> str:
    """The card of a row, as Markdown."""
    layout = FOREIGN.get(row.tag, OFFICIAL)
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
    fields = {
        "Task": f"{row.task}{part}",
        "File": f"`{row.file}`",
        "Addresses": "<br>".join(address.url for address in row.urls),
        "Hash": ", ".join(hashes) or f"none known: {row.no_hash}",
        "Layout": f"`{layout.name}`: {layout.program}",
        "Size": f"{FIGURES[row.model][1] / 1e6:.2f} M parameters (the whole network)",
        "Input": input_rule(default_usage(row.model).preprocess),
        "Figure": row.metric or "none published",
        "Source": row.source,
        "Licence": row.licence,
        "Use": f'`create_model("{row.model}", pretrained="{row.tag}")`',
    }
    if hasattr(trunk, "act"):
        inside = f", {trunk.block_act} in blocks" if trunk.block_act else ""
        fields["Size"] += f"; activation {trunk.act}{inside}"
    table = "".join(f"| {name} | {value} |\n" for name, value in fields.items())
    return f"## {row.model}, tag `{row.tag}`\n\n| | |\n|---|---|\n{table}"


def page() -> str:
    return "\n".join([HEAD, *(card(row) for row in ROWS if not row.shipped)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
