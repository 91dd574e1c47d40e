"""Networks of other programs that contain a HarDNet, told by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Container:
    """A network of another program with a HarDNet in it, or one that is taken for such a network.

    Attributes:
        name: of the network.
        source: address of the program.
        licence: of the program; "unknown" where its repository states none.
        prefix: of the keys of the HarDNet in it.
        marks: prefixes of keys beside it, each of which such a file has.
        outer: prefix of both where the network is a part of another one in turn; it may be absent.
        models: whose trunk it may be, names of ``list_models()``; empty where the suite has no such network.
        reason: why there is none.
    """

    name: str
    source: str
    licence: str
    prefix: str
    marks: tuple[str, ...]
    models: tuple[str, ...] = ()
    reason: str = ""
    outer: str = ""

    def prefix_in(self, state_dict: Mapping[str, Tensor]) -> str | None:
        """Prefix of the HarDNet in such a network; None where these are not the tensors of one."""
        for outer in dict.fromkeys(("", self.outer)):
            starts = [outer + mark for mark in (self.prefix, *self.marks)]
            if all(any(key.startswith(start) for key in state_dict) for start in starts):
                return starts[0]
        return None


CONTAINERS = (
    Container(
        "HarDNet-MSEG",
        "https://github.com/james128333/HarDNet-MSEG",
        "Apache-2.0",
        "hardnet.base.",
        ("rfb2_1.", "rfb3_1.", "rfb4_1.", "agg1."),
        ("hardnet68", "hardnet68ds", "hardnet85", "hardnet39ds"),
    ),
    Container(
        "FairMOT of PaddleDetection",
        "https://github.com/PaddlePaddle/PaddleDetection",
        "Apache-2.0",
        "backbone.base.",
        ("neck.last_proj.", "neck.denseBlocksUp."),
        ("centernet_hardnet85", "centernet_hardnet68"),
        outer="detector.",  # beside the embeddings of what is tracked
    ),
    Container(
        "HarDNet-DFUS",
        "https://github.com/YuWenLo/HarDNet-DFUS",
        "unknown",
        "backbone.base.",
        ("head.lawin_8.", "last3_seg."),
        reason="its trunk is KingNet-53, whose blocks split channels and have squeeze-and-excitation layers",
    ),
    Container(
        "a U-Net or prompt encoder of AutoSAM",
        "https://github.com/talshaharabany/AutoSAM",
        "unknown",
        "backbone.base.",
        ("decoder.up1.", "decoder.final."),
        ("hardnet85", "hardnet68", "hardnet68ds", "hardnet39ds"),
    ),
)


def container_of(state_dict: Mapping[str, Tensor]) -> Container | None:
    """The network of another program that these tensors are; None where they are none of those known."""
    return next((each for each in CONTAINERS if each.prefix_in(state_dict) is not None), None)


def unknown_container(prefix: str) -> Container:
    """A network that nothing is known of but the prefix of the HarDNet in it."""
    return Container("a larger network", "", "", prefix, ())


def has_layers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors beside a network are those of further layers, not of losses and metrics alone."""
    return any(value.ndim > 1 and key.rpartition(".")[2] == "weight" for key, value in tensors.items())
