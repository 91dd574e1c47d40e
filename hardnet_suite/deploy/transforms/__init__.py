"""Networks to new networks that compute the same, faster. They depend on torch only.

Each function leaves its input alone and returns a copy in eval mode. They compose; the usual order is
`fuse_batch_norms`, `fold_normalization`, `merge_decoders`, `separate_averages`, `pad_channels`,
`split_concats`, `cast`, `channels_last`, `pack`.
"""

from hardnet_suite.deploy.transforms.blocks import split_concats
from hardnet_suite.deploy.transforms.channels import pad_channels
from hardnet_suite.deploy.transforms.decoders import merge_decoders, separate_averages
from hardnet_suite.deploy.transforms.dtypes import cast, channels_last
from hardnet_suite.deploy.transforms.inputs import fold_normalization
from hardnet_suite.deploy.transforms.norms import fuse_batch_norms
from hardnet_suite.deploy.transforms.packing import pack

__all__ = [
    "cast",
    "channels_last",
    "fold_normalization",
    "fuse_batch_norms",
    "merge_decoders",
    "pack",
    "pad_channels",
    "separate_averages",
    "split_concats",
]
