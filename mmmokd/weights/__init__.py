# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmmokd.weights.mokd_checkpoint import (
    WeightFile,
    backbone_prefix,
    describe_backbone,
    describe_contents,
    list_branches,
    read_weights,
    select_weights,
)
from mmmokd.weights.official import from_official, to_official

from . import loaded
from .backbones import load_backbone
from .files import check_target, read_checkpoint, read_file, save_file
from .pretrained_init import PretrainedInit

loaded.install()

__all__ = [
    'PretrainedInit',
    'WeightFile',
    'backbone_prefix',
    'check_target',
    'describe_backbone',
    'describe_contents',
    'from_official',
    'list_branches',
    'load_backbone',
    'read_checkpoint',
    'read_file',
    'read_weights',
    'save_file',
    'select_weights',
    'to_official',
]
