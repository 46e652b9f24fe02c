# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Options on the command line: what is refused, and what must not be."""

from pathlib import Path

import pytest
from transfer_testing import need

from mmmokd.cli.config import load_config, set_work_dir
from mmmokd.cli.run_tool import tool_parser
from mmmokd.utils.config_tree import get_node

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'mokd'
FOLDER = CONFIGS / 'mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'
BENCHMARKS = CONFIGS / 'benchmarks'


def load(config, *options):
    args = tool_parser('').parse_args([str(config), '--cfg-options', *options])
    return load_config(args.config, args.cfg_options)


def assert_taken(cfg, options):
    for key, text in (option.split('=', 1) for option in options):
        assert str(get_node(cfg, key.split('.'))) == text


@pytest.mark.parametrize(
    ('option', 'place', 'meant'),
    [
        ('train_cfg.max_epoch', 'train_cfg', 'max_epochs'),
        ('train_dataloader.bach_size', 'train_dataloader', 'batch_size'),
        ('train_dataloader.sampler.shufle', '(DefaultSampler)', 'shuffle'),
        ('train_dataloader.dataset.data_rot', '(ImageFolder)', 'data_root'),
        ('model.branchs.cnn.cross_weight', 'model (MOKD)', 'branches'),
        ('model.branches.cnn.bakbone', 'model.branches.cnn', 'backbone'),
        ('model.branches.cnn.bakbone.depth', 'model.branches.cnn', 'backbone'),
        ('model.branches.cnnn.cross_weight', 'model.branches', 'cnn'),
        ('model.branches.cnn.backbone.dept', '(ResNet)', 'depth'),
        ('optim_wrapper.accumulative_count', '(OptimWrapper)', 'accumulative_counts'),
        ('optim_wrapper.branches.cnn.optimizer.mometum', '(SGD)', 'momentum'),
        ('param_scheduler.cnn.0.wamup', '(WarmupCosineParamScheduler)', 'warmup'),
        ('default_hooks.chekpoint', 'default_hooks', 'checkpoint'),
        ('default_hooks.chekpoint.interval', 'default_hooks', 'checkpoint'),
        ('default_hooks.collapse_monitor.stopp', '(CollapseMonitorHook)', 'stop'),
        ('visualizer.vis_backends.0.save_dr', '(LocalVisBackend)', 'save_dir'),
        ('log_processor.window_sze', 'log_processor', 'window_size'),
        ('randomness.sed', 'randomness', 'seed'),
        ('auto_scale_lr.base_batchsize', 'auto_scale_lr', 'base_batch_size'),
        ('env_cfg.cudnn_benchmrk', 'env_cfg', 'cudnn_benchmark'),
        ('env_cfg.mp_cfg.mp_start', 'env_cfg.mp_cfg', 'mp_start_method'),
        ('env_cfg.dist_cfg.bakend', 'env_cfg.dist_cfg', 'backend'),
        # What does not exist is not left out.
        ('model.branches.cnnn=None', 'model.branches', 'cnn'),
        ('default_hooks.ema_teachr=None', 'default_hooks', 'ema_teacher'),
    ],
)
def test_mistyped_option_is_refused(option, place, meant):
    with pytest.raises(ValueError) as error_info:
        load(FOLDER, option if '=' in option else f'{option}=8')
    option = option.partition('=')[0]
    message = str(error_info.value)
    assert message.startswith(f'--cfg-options {option}: ')
    assert f'{place} takes no ' in message and message.endswith(f' Did you mean {meant}?')


@pytest.mark.parametrize(
    'options',
    [
        # Arguments that the config leaves at their default, of a class and of those it extends.
        ['model.branches.cnn.backbone.frozen_stages=1', 'model.branches.vit.cross_weight=0.1'],
        ['train_dataloader.dataset.max_refetch=3', 'train_dataloader.dataset.indices=64'],
        ['train_dataloader.prefetch_factor=4', 'train_dataloader.num_batch_per_epoch=5'],
        ['param_scheduler.cnn.0.verbose=True', 'train_cfg.val_interval=4'],
        ['optim_wrapper.accumulative_counts=4', 'optim_wrapper.branches.cnn.optimizer.nesterov=1'],
        # Those of mixed precision, which --amp turns on after.
        ['optim_wrapper.loss_scale=dynamic', 'optim_wrapper.dtype=bfloat16'],
        # What mmengine takes out before it builds.
        ['default_hooks.checkpoint.priority=LOW', 'default_hooks.checkpoint.save_best=auto'],
        ['env_cfg.dist_cfg.timeout=30', 'randomness.diff_rank_seed=True'],
        # New entries by name.
        ['default_hooks.runtime_info=None', 'default_hooks.ema_teacher=None'],
        ['model.branches.cnn=None', 'model.branches.vit.heads.st=None'],
        ['default_hooks.mine.type=EarlyStoppingHook', 'default_hooks.mine.monitor=loss'],
        # An argument of the type that another option chooses.
        [
            'visualizer.vis_backends.0.type=WandbVisBackend',
            'visualizer.vis_backends.0.init_kwargs.project=mokd',
        ],
        # Dicts that are handed on as they are; what nothing is known of.
        ['model.branches.cnn.backbone.norm_cfg.requires_grad=False', 'custom_hooks=[]'],
        ['model.branches.cnn.backbone.init_cfg.type=Pretrained', 'compile=True'],
    ],
)
def test_new_option_that_is_right_is_taken(options):
    assert_taken(load(FOLDER, *options), options)


WEIGHTS = [
    'model.backbone.init_cfg.checkpoint=epoch_100.pth',
    'model.backbone.init_cfg.prefix=branches.cnn.teacher.backbone.',
]


@pytest.mark.parametrize(
    ('config', 'options'),
    [
        (FOLDER, ['train_dataloader.dataset.data_root=/my/images']),
        (FOLDER, ['visualizer.vis_backends.0.type=TensorboardVisBackend']),
        ('resnet50_8xb128-linear-coslr-100e_in1k', WEIGHTS),
        ('resnet50_8xb128-linear-coslr-100e_in1k', ['model.backbone.init_cfg=None']),
        (
            'resnet50_8xb128-linear-coslr-100e_in1k',
            ['model.backbone.depth=18', 'model.head.in_channels=512'],
        ),
        (
            'vit-small-p16_8xb128-coslr-200e_in1k',
            ['model.backbone.arch=deit-tiny', 'param_scheduler.warmup=2', 'train_cfg.max_epochs=2'],
        ),
        # Its optimizer's wrapper is built by a constructor with keys of its own.
        ('vit-small-p16_8xb128-coslr-200e_in1k', ['optim_wrapper.clip_grad.max_norm=1.0']),
        (
            'cnn_1xb20-coslr-50e_fashion-mnist-1pct',
            ['model.backbone.frozen_stages=3', 'model.backbone.norm_eval=True'],
        ),
    ],
)
def test_options_of_the_documentation_are_taken(config, options):
    if isinstance(config, str):
        config = next(BENCHMARKS.rglob(f'{config}.py'))
    assert_taken(load(config, *options), options)


@pytest.mark.parametrize(
    'name',
    [
        'resnet50_8xb128-linear-coslr-100e_in1k',
        'vit-small-p16_8xb128-coslr-200e_in1k',
        'mask-rcnn_r50_fpn_1x_coco',
        'upernet_r50_4xb4-20k_voc12aug-512x512',
        'cnn_1xb20-coslr-50e_fashion-mnist-1pct',
    ],
)
def test_transfer_replaces_the_init_cfg_of_a_benchmark(name):
    if name.startswith('mask'):
        need('mmdet', 'mmcv.ops')
    config = next(BENCHMARKS.rglob(f'{name}.py'))
    weights = dict(type='Pretrained', checkpoint='epoch_100.pth', prefix='branches.cnn.teacher.')
    options = {f'model.backbone.init_cfg.{key}': value for key, value in weights.items()}
    cfg = load_config(config, {**options, 'model.backbone.init_cfg._delete_': True})
    assert cfg.model.backbone.init_cfg == weights


def test_delete_replaces_a_dict():
    swap = [
        'model.branches.cnn.backbone.type=mmpretrain.ConvNeXt',
        'model.branches.cnn.backbone.arch=tiny',
        'model.branches.cnn.backbone._delete_=True',
        'train_dataloader.dataset.pipeline.0._delete_=True',
        'train_dataloader.dataset.pipeline.0.type=mmpretrain.LoadImageFromFile',
        # Nothing to delete.
        'model.branches.cnn.backbone.init_cfg._delete_=True',
        'model.branches.cnn.backbone.init_cfg.type=Kaiming',
        'model.branches.vit.backbone._delete_=False',
    ]
    for options in (swap, swap[::-1]):
        cfg = load(FOLDER, *options)
        assert cfg.model.branches.cnn.backbone == dict(
            type='mmpretrain.ConvNeXt', arch='tiny', init_cfg=dict(type='Kaiming')
        )
        assert cfg.train_dataloader.dataset.pipeline[0] == dict(type='mmpretrain.LoadImageFromFile')
        assert cfg.model.branches.vit.backbone == load_config(FOLDER).model.branches.vit.backbone
        assert '_delete_' not in cfg.pretty_text


def test_commas_and_blanks_stay_in_a_text(tmp_path):
    folder = tmp_path / 'a, b [c'
    there = tmp_path / 'a b, c d'
    there.mkdir()
    cfg = load(
        FOLDER,
        f'train_dataloader.dataset.data_root="{folder}"',
        f'train_dataloader.dataset.data_prefix={there}',
        f"load_from='{folder} (old) x.pth'",
        'train_dataloader.dataset.extensions=.jpg, .png',
        'custom_imports.imports=mmmokd,mmmokd.models',
        'val_evaluator=["a b", ( "c d", 1 ), "e"]',
        'work_dir=runs/2024 01 [a',
        'randomness.seed= 7 ',
        'experiment_name=1 2',
    )
    assert cfg.train_dataloader.dataset.data_root == str(folder)
    assert cfg.train_dataloader.dataset.data_prefix == str(there)
    assert cfg.load_from == f'{folder} (old) x.pth'
    assert cfg.train_dataloader.dataset.extensions == ['.jpg', '.png']
    assert cfg.custom_imports.imports == ['mmmokd', 'mmmokd.models']
    assert cfg.val_evaluator == ['a b', ('c d', 1), 'e']
    assert cfg.work_dir == 'runs/2024 01 [a'
    assert cfg.randomness.seed == 7 and cfg.experiment_name == '1 2'
    cfg = load(FOLDER, 'train_dataloader.dataset.extensions=[1,(2,a)]')
    assert cfg.train_dataloader.dataset.extensions == [1, (2, 'a')]


@pytest.mark.parametrize('value', ['a b,c', '[a b, c]', 'a,b [c'])
def test_text_or_list_is_not_guessed(value, capsys):
    with pytest.raises(SystemExit):
        load(FOLDER, f'train_dataloader.dataset.data_root={value}')
    said = capsys.readouterr().err
    assert f"{value}' may be a text or a list: quote the text, as in KEY='\"a, b\"'" in said


@pytest.mark.parametrize(
    ('key', 'found'),
    [
        ('train_dataloader.dataset.pipeline', 'a list'),
        ('model.branches.cnn', 'a dict'),
        ('optim_wrapper.optimizer.lr', '0.1'),
        ('optim_wrapper.type', 'OptimWrapper'),
    ],
)
def test_value_that_was_forgotten(key, found):
    with pytest.raises(ValueError) as error_info:
        load(FOLDER, f'{key}=')
    place = key.replace('wrapper.optimizer', 'wrapper.branches.cnn.optimizer')
    message = (
        f'--cfg-options {place}= has no value after the equals sign, where {FOLDER} has {found}'
    )
    assert str(error_info.value).startswith(message)
    assert load(FOLDER, 'train_dataloader.dataset.data_prefix=')  # an empty text is one
    with pytest.raises(ValueError, match='--work-dir has no value: name a folder'):
        set_work_dir(load_config(FOLDER), '')


@pytest.mark.parametrize('option', ['=3', '=', 'model..type=x'])
def test_option_without_a_key(option, capsys):
    with pytest.raises(SystemExit):
        load(FOLDER, option)
    assert f'{option!r} is not of the form KEY=VALUE' in capsys.readouterr().err


def test_list_in_place_of_a_text():
    hint = r"""should be a text, not \['a', 'b'\]. Of a text with commas, --cfg-options wants the quo"""
    with pytest.raises(ValueError, match=hint):
        load(FOLDER, 'train_dataloader.dataset.ann_file=a,b')
    with pytest.raises(ValueError, match=hint):
        load(FOLDER, 'load_from=a,b')


@pytest.mark.parametrize('text', ['~nobodys-name,x', f'{"a" * 300},b'])
def test_list_that_can_be_no_file(text):
    cfg = load(FOLDER, f'train_dataloader.dataset.extensions={text}')
    assert cfg.train_dataloader.dataset.extensions == text.split(',')


def optimizers(cfg):
    return {name: branch.optimizer for name, branch in cfg.optim_wrapper.branches.items()}


def test_option_for_the_optimizer_is_for_all_branches(tmp_path):
    own = optimizers(load_config(FOLDER))
    cfg = load(FOLDER, 'optim_wrapper.optimizer.lr=0.3')
    assert optimizers(cfg) == {name: dict(own[name], lr=0.3) for name in own}
    # The setting of one branch takes precedence, in any order.
    one = 'optim_wrapper.branches.vit.optimizer.lr=0.2'
    assert optimizers(load(FOLDER, one, 'optim_wrapper.optimizer.lr=0.3'))['vit'].lr == 0.2
    options = [f'optim_wrapper.optimizer.{each}' for each in ('_delete_=True', 'type=SGD', 'lr=1')]
    assert optimizers(load(FOLDER, *options)) == dict.fromkeys(own, dict(type='SGD', lr=1))
    with pytest.raises(
        ValueError, match="optimizer.type: .* no optimizer is registered as 'Nonsen"
    ):
        load(FOLDER, 'optim_wrapper.optimizer.type=Nonsense')
    with pytest.raises(
        ValueError, match=r'optimizer.momentum: .*vit.optimizer \(AdamW\) takes no mom'
    ):
        load(FOLDER, 'optim_wrapper.optimizer.momentum=0.5')


def test_optimizer_in_a_file_is_the_default_of_all_branches(tmp_path):
    file = tmp_path / 'mine.py'
    base = f'_base_ = {str(FOLDER)!r}\n'
    file.write_text(f'{base}optim_wrapper = dict(optimizer=dict(lr=0.3))')
    with pytest.raises(
        ValueError, match='mine.py: optim_wrapper.optimizer.lr has no effect: every'
    ):
        load_config(file)
    file.write_text(
        f"{base}optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.3), branches=dict("
        'cnn=dict(_delete_=True), vit=dict(_delete_=True, optimizer=dict(lr=0.1))))'
    )
    expected = dict(cnn=dict(type='SGD', lr=0.3), vit=dict(type='SGD', lr=0.1))
    assert optimizers(load_config(file)) == expected


def test_element_of_a_list():
    cfg = load(
        FOLDER,
        'model.branches.cnn.backbone.out_indices=[2,3]',
    )
    assert cfg.model.branches.cnn.backbone.out_indices == [2, 3]
    cfg = load(FOLDER, 'train_dataloader.dataset.pipeline.1.groups.0.size=64')
    assert cfg.train_dataloader.dataset.pipeline[1].groups[0].size == 64
    cfg = load(FOLDER, 'custom_imports.imports.0=mmmokd.models')
    assert cfg.custom_imports.imports == ['mmmokd.models']
    with pytest.raises(
        ValueError, match='has no list model.branches.cnn.backbone.out_indices: give'
    ):
        load(FOLDER, 'model.branches.cnn.backbone.out_indices.0=3')
    with pytest.raises(ValueError, match='do not fit .*exceeds the length'):
        load(FOLDER, 'train_dataloader.dataset.pipeline.9.type=LoadImageFromFile')


def test_modules_that_options_name_are_imported(tmp_path, monkeypatch):
    (tmp_path / 'option_module.py').write_text(
        'from mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n\n\n'
        '@HOOKS.register_module()\nclass OptionHook(Hook):\n    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    hook = 'default_hooks.mine.type=OptionHook'
    with pytest.raises(ValueError, match="no hook is registered as 'OptionHook'"):
        load(FOLDER, hook)
    load(FOLDER, hook, 'custom_imports.imports=[mmmokd,option_module]')
    with pytest.raises(ValueError, match='custom_imports: Failed to import nothing_here'):
        load(FOLDER, 'custom_imports.imports=[nothing_here]')
