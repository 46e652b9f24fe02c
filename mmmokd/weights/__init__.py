# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from . import initialization
from .backbone_info import BackboneInfo, describe_weights, inspect_weights
from .backbones import load_backbone
from .files import check_target, read_checkpoint, read_file, save_file
from .lora import merge_lora
from .mokd_checkpoint import (
    WeightFile,
    backbone_prefix,
    choose_branch,
    choose_network,
    describe_contents,
    list_branches,
    read_weights,
    select_weights,
)
from .official import from_official, to_official
from .pretrained_init import PretrainedInit

initialization.install()

__all__ = [
    'BackboneInfo',
    'PretrainedInit',
    'WeightFile',
    'backbone_prefix',
    'check_target',
    'choose_branch',
    'choose_network',
    'describe_contents',
    'describe_weights',
    'from_official',
    'inspect_weights',
    'list_branches',
    'load_backbone',
    'merge_lora',
    'read_checkpoint',
    'read_file',
    'read_weights',
    'save_file',
    'select_weights',
    'to_official',
]
