# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Values that a config may have."""

from pathlib import Path

import pytest

from mmmokd.cli.config import load_config
from mmmokd.cli.config_tables import Rule
from mmmokd.cli.run_tool import tool_parser
from mmmokd.utils.config_tree import get_node

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'mokd'
FOLDER = CONFIGS / 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
NATURAL = 'an integer of 0 or more'
FROM_ONE = 'an integer of 1 or more'
SHARE = 'a number from 0 to 1'
SWITCH = 'True or False'


@pytest.mark.parametrize(
    ('option', 'allowed'),
    [
        ('train_dataloader.batch_size=four', FROM_ONE),
        ('train_dataloader.batch_size=0', FROM_ONE),
        ('train_dataloader.batch_size=2.5', FROM_ONE),
        ('train_dataloader.batch_size=None', FROM_ONE),
        ('train_dataloader.num_workers=-1', NATURAL),
        ('train_dataloader.sampler.shuffle=maybe', SWITCH),
        ('train_dataloader.dataset.pipeline.1.groups=x', None),
        ('train_cfg.max_epochs=0', FROM_ONE),
        ('train_cfg.max_epochs=ten', FROM_ONE),
        ('train_cfg.val_interval=0', FROM_ONE),
        ('randomness.seed=abc', 'an integer from 0 to 4294967295'),
        ('randomness.seed=-1', 'an integer from 0 to 4294967295'),
        ('randomness.deterministic=maybe', SWITCH),
        ('model.branches.vit.backbone.arch=vit-tiny', 'one of small, base, large'),
        ('model.branches.vit.backbone.patch_size=0', FROM_ONE),
        ('model.branches.vit.backbone.img_size=0', FROM_ONE),
        ('model.branches.vit.backbone.drop_path_rate=2', SHARE),
        ('model.branches.cnn.backbone.depth=19', 'one of 18, 34, 50, 101, 152'),
        ('model.branches.cnn.cross_weight=abc', 'a number of 0 or more'),
        ('model.branches.cnn.heads.sm.center_momentum=2', SHARE),
        ('model.branches.cnn.projector.out_channels=-5', FROM_ONE),
        ('model.num_global_views=0', FROM_ONE),
        ('default_hooks.logger.interval=0', FROM_ONE),
        ('default_hooks.checkpoint.interval=ten', f'{FROM_ONE} or -1'),
        ('default_hooks.checkpoint.max_keep_ckpts=0', f'{FROM_ONE} or -1'),
        ('default_hooks.checkpoint.by_epoch=maybe', SWITCH),
        ('default_hooks.ema_teacher.base_momentum=2', SHARE),
        ('default_hooks.prototype_freeze.freeze_epochs=-1', 'a number of 0 or more'),
        ('optim_wrapper.branches.cnn.optimizer.lr=-0.1', 'a number of 0 or more'),
        ('optim_wrapper.branches.cnn.optimizer.lr=high', 'a number of 0 or more'),
        ('optim_wrapper.branches.cnn.optimizer.momentum=2', SHARE),
        ('optim_wrapper.branches.cnn.parts.search_head.lr=x', 'a number of 0 or more'),
        ('optim_wrapper.accumulative_counts=0', FROM_ONE),
        ('optim_wrapper.clip_grad.max_norm=0', 'a number above 0'),
        ('param_scheduler.cnn.0.warmup=-1', 'a number of 0 or more'),
        ('log_processor.window_size=0', FROM_ONE),
        ('log_processor.by_epoch=maybe', SWITCH),
        ('log_level=LOUD', 'one of DEBUG, INFO'),
        ('auto_scale_lr.base_batch_size=0', FROM_ONE),
        ('auto_scale_lr.enable=maybe', SWITCH),
        ('sync_bn=foo', 'one of torch, mmcv, None'),
        ('launcher=foo', 'one of none, pytorch'),
        ('env_cfg.mp_cfg.mp_start_method=frok', 'one of fork, spawn'),
        ('load_from=5', 'a text'),
        ('resume=maybe', SWITCH),
        ('train_dataloader=4', 'a dict'),
        ('model=ResNet', 'a dict'),
        ('custom_hooks=EMAHook', 'a list'),
        ('param_scheduler=cosine', 'a dict or a list'),
        ('train_dataloader.dataset.pipeline=[]', 'a list of at least one transform'),
        ('train_dataloader.dataset.pipeline=crop', 'a list of at least one transform'),
        ('train_dataloader.dataset.indices=', 'an integer or a list or None'),
        ('model.branches.cnn.views=', 'a list or None'),
        ('work_dir=', 'a text'),
        ('load_from=', 'a text'),
    ],
)
def test_wrong_value_is_refused(option, allowed):
    options = tool_parser('').parse_args([str(FOLDER), '--cfg-options', option]).cfg_options
    if allowed is None:  # of what its class checks itself
        load_config(FOLDER, options)
        return
    key = option.partition('=')[0]
    with pytest.raises(ValueError) as error_info:
        load_config(FOLDER, options)
    message = str(error_info.value)
    assert message.startswith(f'--cfg-options {key}: {key} ')
    assert f' should be {allowed}' in message and ', not ' in message


@pytest.mark.parametrize(
    'options',
    [
        {'default_hooks.checkpoint.interval': -1, 'randomness.seed': None, 'load_from': None},
        {'model.branches.cnn.backbone.depth': 50, 'train_dataloader.prefetch_factor': None},
        {'model.branches.vit.backbone.arch': 'deit-s', 'train_cfg.max_epochs': 1e2},
        {'model.branches.vit.backbone.img_size': (64, 32), 'model.branches.cnn.cross_weight': 0},
    ],
)
def test_right_value_is_taken(options):
    cfg = load_config(FOLDER, options)
    assert all(get_node(cfg, key.split('.')) == value for key, value in options.items())


def test_rule():
    assert str(Rule(1, whole=True, also=(-1,))) == 'an integer of 1 or more or -1'
    assert (
        str(Rule(0, 1)) == 'a number from 0 to 1' and str(Rule(0, above=True)) == 'a number above 0'
    )
    rule = Rule(1, 8, whole=True, each=True)
    assert rule.fits(1) and rule.fits((2, 8)) and rule.fits(None) and rule.fits(2.0)
    assert not any(map(rule.fits, (0, 9, 1.5, True, '2', (1, 9))))
    assert not Rule(0, above=True).fits(0)
