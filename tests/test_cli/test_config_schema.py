# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Values that a config file may and may not have."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import Registry
from transfer_testing import need

from mmmokd.cli.config import load_config
from mmmokd.cli.config_schema import arguments_of, check_config
from mmmokd.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BASE = "_base_ = 'mmmokd::mokd/mokd_resnet18_vit-tiny-p16_1xb32-coslr-100e_folder.py'\n"
CLASSIFIER = (
    "_base_ = 'mmmokd::mokd/benchmarks/classification/resnet50_8xb128-linear-coslr-100e_in1k.py'\n"
)
LIBRARIES = ('mmpretrain', 'mmdet', 'mmseg')


def load(folder, text, base=BASE, name='mine.py'):
    (folder / name).write_text(base + text)
    return load_config(folder / name)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            'default_hook = dict(timer=None)',
            'nothing reads default_hook. Did you mean default_hooks?',
        ),
        (
            'train_dataloder = dict()',
            'nothing reads train_dataloder. Did you mean train_dataloader?',
        ),
        ('env_cfg = dict(cudnn_benchmrk=True)', 'env_cfg takes no cudnn_benchmrk. Did you mean'),
        (
            'randomness = dict(_delete_=True, deterministic=True)',
            "randomness lacks what it needs: 'seed'.",
        ),
        ('auto_scale_lr = dict(base_batchsize=64)', 'auto_scale_lr takes no base_batchsize. Did'),
        (
            'data_preprocessor = dict(keep=True)',
            'data_preprocessor (SelfSupDataPreprocessor) takes no keep.',
        ),
        ('train_cfg = dict(max_epoch=3)', 'train_cfg takes no max_epoch. Did you mean max_epochs?'),
        (
            'optim_wrapper = dict(clip_grad=dict(max_nrm=1))',
            'optim_wrapper.clip_grad takes no max_nrm',
        ),
        ('optim_wrapper = dict(paramwise_cfg=dict(a=1))', 'takes no paramwise_cfg. Give a part of'),
        (
            'optim_wrapper = dict(branches=dict(cnn=dict(optimizer=dict(wight_decay=1))))',
            'optim_wrapper.branches.cnn.optimizer (SGD) takes no wight_decay. Did you mean weight_d',
        ),
        (
            'optim_wrapper = dict(branches=dict(cnn=dict(parts=dict(search_hed=dict(lr=1)))))',
            'optim_wrapper.branches.cnn.parts takes no search_hed. Did you mean search_head?',
        ),
        (
            "default_hooks = dict(mine=dict(type='EMAHok'))",
            "default_hooks.mine (EMAHok): no hook is registered as 'EMAHok'. Did you mean EMAHook?",
        ),
        (  # mmengine would find it as the first checkpoint is saved
            'default_hooks = dict(checkpoint=dict(max_keep_ckpt=1))',
            'default_hooks.checkpoint (CheckpointHook) takes no max_keep_ckpt. Did you mean max_k',
        ),
        (
            'default_hooks = dict(mine=dict(interval=1))',
            "default_hooks.mine lacks what it needs: 'type'",
        ),
        (
            "custom_hooks = [dict(type='EarlyStoppingHook', monitr='loss')]",
            'custom_hooks.0 (EarlyStoppingHook) takes no monitr. Did you mean monitor?',
        ),
        (
            "custom_hooks = [dict(type='EarlyStoppingHook')]",
            "custom_hooks.0 (EarlyStoppingHook) lacks what it needs: 'monitor'.",
        ),
        (
            'model = dict(branches=dict(cnn=dict(cros_weight=1)))',
            'model.branches.cnn takes no cros_weight. Did you mean cross_weight?',
        ),
        (
            'model = dict(branches=dict(vit=dict(backbone=dict(drop_path_rat=0.1))))',
            'model.branches.vit.backbone (VisionTransformer) takes no drop_path_rat. Did you mean',
        ),
        (
            'model = dict(branches=dict(third=dict(projector=dict(train_gain=True))))',
            "model.branches.third lacks what it needs: 'backbone'.",
        ),
        (
            'model = dict(branches=dict(cnn=dict(projector=dict(train_gian=True))))',
            ' takes no train_gian. Did you mean train_gain?',
        ),
        (
            'model = dict(branches=dict(cnn=dict(heads=dict(smm=dict(loss_weight=2)))))',
            'model.branches.cnn.heads takes no smm. Did you mean sm?',
        ),
        (
            'model = dict(branches=dict(cnn=dict(heads=dict(sm=dict(center_momentm=0.5)))))',
            'model.branches.cnn.heads.sm takes no center_momentm. Did you mean center_momentum?',
        ),
        (
            "model = dict(branches=dict(cnn=dict(backbone=dict(_delete_=True, type='ResNet'))))",
            "model.branches.cnn.backbone (ResNet) lacks what it needs: 'depth'.",
        ),
        (
            "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImage')]))",
            "(LoadImage): no transform is registered as 'LoadImage'. Did you mean mmmokd.LoadIma",
        ),
        ('train_dataloader = dict(sampler=dict(shufle=True))', '(DefaultSampler) takes no shufle.'),
        (
            "param_scheduler = dict(cnn=[dict(type='PolyLR', pwer=1)])",
            '(PolyLR) takes no pwer. Did',
        ),
        (
            "visualizer = dict(vis_backends=[dict(type='LocalVisBackend', save_dr='')])",
            'no save_dr.',
        ),
        ("default_scope = 'mmpretran'", "default_scope 'mmpretran'. Did you mean mmpretrain?"),
        # A variable that the base has read by then.
        ("data_root = '/my/images'\nmax_epochs = 3", 'nothing reads data_root. What a base has'),
    ],
)
def test_mistyped_file_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError) as error_info:
        load(tmp_path, text)
    assert str(error_info.value).startswith(f'config {tmp_path / "mine.py"}: ')
    assert message in str(error_info.value).replace(' of the config', '')


@pytest.mark.parametrize(
    'text',
    [
        '_mine = 3',
        "root = '/images'\ntrain_dataloader = dict(dataset=dict(data_root=root))",
        'epochs = _base_.train_cfg.max_epochs\ntrain_cfg = dict(max_epochs=epochs // 2)',
        '_, crop, pack = _base_.train_dataloader.dataset.pipeline',
        'def double(number):\n    return 2 * number\n\n\ntrain_cfg = dict(max_epochs=double(3))',
        'import math\n\ntrain_cfg = dict(max_epochs=math.ceil(2.5))',
        "tta_model = dict(type='ClassificationTTA')",
        # Repeats an existing value.
        "name = 'mmmokd.ImageFolder'",
        # Merges and deletions, also of what does not exist.
        "cnn = dict(init_cfg=dict(_delete_=True, type='Kaiming'))\n"
        'model = dict(branches=dict(cnn=dict(backbone=cnn)))',
        "custom_hooks = [dict(type='mmpretrain.EMAHook', momentum=1e-4, priority='LOW')]",
        'default_hooks = dict(timer=None, ema_teacher=None)\nsync_bn = None\nval_dataloader = None',
        'env_cfg = dict(dist_cfg=dict(port=29501, timeout=30))',
        # A branch or a term is left out, a term or a neck added, the graph given.
        'model = dict(branches=dict(cnn=None))',
        "koleo = dict(type='mmmokd.DistillationHead', reads='pooled')\n"
        'model = dict(branches=dict(cnn=dict(heads=dict(st=None, koleo=koleo))))',
        'model = dict(branches=dict(cnn=dict(cross_weight=dict(_delete_=True, vit=0.5))))',
        "moco = dict(type='NonLinearNeck', hid_channels=8, out_channels=8)\n"
        'model = dict(branches=dict(cnn=dict(moco=moco, ema=False)))',
        'randomness = dict(_delete_=True, seed=None)',
    ],
)
def test_right_file_is_taken(tmp_path, text):
    cfg = load(tmp_path, text)
    assert '_delete_' not in cfg.pretty_text


def test_file_that_mmengine_wrote_is_taken_again(tmp_path):
    """Its variables are read no more, as their values stand where they were used."""
    cfg = load(tmp_path, 'epochs = 3\ntrain_cfg = dict(max_epochs=2 * epochs)')
    cfg.dump(tmp_path / 'written.py')
    again = load_config(tmp_path / 'written.py')
    assert again.epochs == 3 and again.to_dict() == cfg.to_dict()


def test_config_of_classes(tmp_path):
    """Configs in mmengine's newer style, with classes for names."""
    (tmp_path / 'base.py').write_text(
        'from mmengine.hooks import IterTimerHook\nfrom mmpretrain.models import ResNet\n'
        "from torch.optim import SGD\n\ndefault_scope = 'mmpretrain'\ndepth = 18\n"
        'model = dict(type=ResNet, depth=depth)\noptim_wrapper = dict(optimizer=dict(type=SGD, lr=1))\n'
        'default_hooks = dict(timer=dict(type=IterTimerHook))\n'
    )
    new = (
        'from mmengine.config import read_base\n\nwith read_base():\n    from .base import *\n\n'
        'default_hooks.timer = None\n'
    )
    cfg = load(tmp_path, 'model.depth = 34\n', new)
    assert cfg.model.depth == 34
    for text, message in (
        ('model.dept = 34', r'model \(ResNet\) .* no dept. Did you mean depth'),
        ('optim_wrapper.optimizer.lrr = 1', r'optimizer \(SGD\) .* no lrr'),
        ('default_hook = dict()', 'nothing reads default_hook'),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, text, new)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = undefined', r"NameError: name 'undefined' is not defined \(.*broken.py, line 1\)"),
        ('a = (', "SyntaxError: '\\(' was never closed"),
        (
            "custom_imports = dict(imports=['nothing_here'])",
            'ImportError: Failed to import nothing_here',
        ),
        ("_base_ = 'mmmokd::mokd/nothing.py'", 'config mmmokd::mokd/nothing.py does not exist'),
        ("_base_ = './nothing.py'", 'No such file or directory'),
    ],
)
def test_file_that_cannot_be_read(tmp_path, text, message):
    with pytest.raises(ValueError, match=f'broken.py cannot be read: .*{message}'):
        load(tmp_path, text, base='', name='broken.py')


def configs_of(library):
    spec = find_spec(library)
    folder = Path(spec.origin).parent / '.mim' / 'configs' if spec else Path('nowhere')
    return sorted(file for file in folder.rglob('*.py') if '_base_' not in file.parts)


SAMPLE = dict(
    mmpretrain=[
        'resnet50_8xb32_in1k',
        'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k',
        'swin-tiny_16xb64_in1k',
    ],
    mmdet=['mask-rcnn_r50_fpn_1x_coco', 'detr_r50_8xb2-150e_coco', 'rtmdet_s_8xb32-300e_coco'],
    mmseg=['upernet_r50_4xb4-160k_ade20k-512x512', 'segformer_mit-b0_8xb2-160k_ade20k-512x512'],
)


@pytest.mark.parametrize('library', LIBRARIES)
def test_configs_of_the_libraries_are_taken(library):
    need(library, *(['mmcv.ops'] if library != 'mmpretrain' else []))
    files = [file for file in configs_of(library) if file.stem in SAMPLE[library]]
    assert files
    for file in files:
        load_config(file)


# Faults of the libraries' own: nothing reads or takes what is named.
FAULTS = re.compile(
    r'cannot be read: |no dataset is registered|no class is registered as .(CLIP|Bert|Modified)|'
    r'BatchCutMix|MOTChallengeMetrics|lacks what it needs: .sampler|eval_mode|force_grad_on_level'
)


@pytest.mark.long
@pytest.mark.parametrize('library', LIBRARIES)
def test_every_config_of_the_libraries_is_taken(library):
    need(library, 'mmcv.ops')
    refused = {}
    for file in configs_of(library):
        try:
            load_config(file)
        except ValueError as error:
            refused[file.name] = str(error)
    assert not {name: text for name, text in refused.items() if not FAULTS.search(text)}
    assert len(refused) <= 50


def test_own_configs_are_taken():
    names = ('mokd_convnext-tiny_timm-mobilenetv3-large*', 'mokd_resnet18_vit-tiny-p4*', '*-knn')
    files = [file for name in names for file in (ROOT / 'configs' / 'mokd').rglob(f'{name}.py')]
    assert len(files) == 3
    for file in files:
        load_config(file)


@pytest.mark.long
def test_every_own_config_is_taken():
    for file in (ROOT / 'configs').rglob('*.py'):
        if '_base_' not in file.parts:
            assert load_config(file).filename == str(file)


def test_leftovers_of_another_type_say_what_to_do(tmp_path):
    (tmp_path / 'mine.py').write_text(CLASSIFIER)
    swap = {'model.backbone.type': 'VisionTransformer', 'model.backbone.arch': 'deit-tiny'}
    with pytest.raises(ValueError, match=r'model.backbone._delete_=True removes what is defined'):
        load_config(tmp_path / 'mine.py', swap)
    cfg = load_config(tmp_path / 'mine.py', {**swap, 'model.backbone._delete_': True})
    assert cfg.model.backbone == dict(type='VisionTransformer', arch='deit-tiny')


def test_variable_on_the_command_line(tmp_path):
    """mmengine would change the variable and nothing else."""
    file = tmp_path / 'mine.py'
    file.write_text(f"{BASE}root = '/a'\ntrain_dataloader = dict(dataset=dict(data_root=root))\n")
    with pytest.raises(
        ValueError, match='has no effect. Set train_dataloader.dataset.data_root in'
    ):
        load_config(file, {'root': '/b'})


def refused(**parts) -> str | None:
    try:
        check_config(Config(dict(default_scope='mmpretrain', **parts)))
    except ConfigError as error:
        return str(error).removeprefix('config None: ')


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (
            dict(type='mmpretrain.ResNet', dept=18, depth=18),
            'model.backbone (ResNet) of the config takes no dept. Did you mean depth?',
        ),
        (
            dict(type='mmpretrain.ResNet'),
            "model.backbone (ResNet) of the config lacks what it needs: 'depth'.",
        ),
        (
            dict(type='mmpretrain.ResNett', depth=18),
            'model.backbone (ResNett) of the config: no model is registered as '
            "'mmpretrain.ResNett'. Did you mean ResNet?",
        ),
        (dict(depth=18), "model.backbone of the config lacks what it needs: 'type'."),
        (
            dict(type='mmpretrain.ResNet', depth='18'),
            'model.backbone.depth (ResNet) of the config should be one of 18, 34, 50, 101, 152, not '
            "'18'. Did you mean 18?",
        ),
        # Takes any argument, for timm.
        (dict(type='mmpretrain.TIMMBackbone', model_name='resnet18', in_chans=1), None),
    ],
)
def test_mistake_in_a_config_names_its_place(backbone, message):
    assert refused(model=dict(type='ImageClassifier', backbone=backbone)) == message


def test_mistyped_key_of_what_the_runner_builds():
    message = 'log_processor of the config takes no windows_size. Did you mean window_size?'
    assert refused(log_processor=dict(windows_size=3)) == message


def test_model_of_branches_is_known_by_its_signature():
    """A class of whatever name that takes ``branches`` and, for their heads, has ``terms``."""

    class Pair(BaseModel):
        terms = dict(mse=dict(type='mmmokd.DistillationHead'))

        def __init__(self, branches: dict[str, dict]) -> None:
            pass

    backbone = dict(type='mmpretrain.ResNet', depth=18)
    good = dict(type=Pair, branches=dict(a=dict(backbone=backbone, heads=dict(mse=dict()))))
    assert refused(model=good) is None
    for part, message in (
        (
            dict(branches=dict(a=dict(bakbone=backbone))),
            'model.branches.a of the config lacks what it',
        ),
        (
            dict(branches=dict(a=dict(backbone=dict(backbone, dept=1)))),
            'model.branches.a.backbone (ResNet) of the config takes no dept. Did you mean depth?',
        ),
        (
            dict(branches=dict(a=dict(backbone=backbone, heads=dict(mes={})))),
            'model.branches.a.heads of the config takes no mes. Did you mean mse?',
        ),
        (
            dict(branches=dict(a=dict(backbone=backbone, heads=dict(mse=dict(center_momentm=1))))),
            'model.branches.a.heads.mse of the config takes no center_momentm. Did you mean center_m',
        ),
    ):
        assert refused(model=dict(good, **part)).startswith(message)


def test_arrays_in_a_config_are_no_hindrance():
    class Arrays(Hook):
        def __init__(self, values) -> None:
            pass

    hooks = [dict(type=Arrays, values=np.zeros(2), interval=1) for _ in range(2)]
    message = 'custom_hooks.0 (Arrays) of the config takes no interval.'
    assert refused(custom_hooks=hooks) == message


def test_library_that_cannot_be_imported_is_no_hindrance(monkeypatch):
    def fail(registry):
        raise RuntimeError('operators of another PyTorch')

    monkeypatch.setattr(Registry, 'import_from_location', fail)
    assert refused(model=dict(backbone=dict(type='SomeNet', depth=18), type='SomeModel')) is None


def test_arguments_of_a_class():
    class Base:
        def __init__(self, depth: int, width: int = 1) -> None:
            pass

    class Closed(Base):
        def __init__(self, stem: dict, **kwargs) -> None:
            pass

    class Open(BaseModule):
        def __init__(self, model_name: str, **kwargs: dict) -> None:
            pass

    found = arguments_of(Closed)
    assert found.closed and found.required == {'stem'}
    assert found.names == dict(stem=dict, depth=int, width=int)
    found = arguments_of(Open)  # who knows whom they are for: BaseModule takes but init_cfg
    assert not found.closed and found.names == dict(model_name=str)
