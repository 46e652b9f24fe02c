# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Features on the disk in the place of a frozen backbone, in whole runs over fixed views."""

import json
import shutil

import array_dataset  # noqa: F401  registers a dataset
import pytest
import torch
from mokd_testing import AfterStep, branch_cfg, build_mokd, build_runner, runner_cfg, train

from mmmokd.datasets import MultiCrop
from mmmokd.engine.feature_writer import FeatureWriter, check_cached_data, describe_data
from mmmokd.engine.runners.fixed_views import fix_cached_views, fix_views
from mmmokd.models.branches.feature_cache import META, shard_path

GROUPS = [dict(num=2, size=32, scale=(0.5, 1.0)), dict(num=1, size=24, scale=(0.2, 0.5))]
IMAGES, DRAWS = 12, 2


@pytest.fixture(scope='module')
def partner(tmp_path_factory):
    """A file of a whole ViT's branch."""
    path = tmp_path_factory.mktemp('partner') / 'partner.pth'
    torch.save(dict(state_dict=build_mokd(('vit',), seed=5).state_dict()), path)
    return path


def config(folder, partner, frozen, cache=None, **branch):
    prefix = 'branches.vit.teacher.'
    init_cfg = dict(type='Pretrained', checkpoint=str(partner), prefix=prefix)
    vit = branch_cfg('vit', frozen=frozen, cache=cache, **branch)
    if frozen is True:
        vit['init_cfg'] = init_cfg
    else:
        vit.update(cross_weight={})
        vit['backbone']['init_cfg'] = dict(init_cfg, prefix=f'{prefix}backbone.')
    branches = dict(cnn=branch_cfg('cnn'), vit=vit)
    cfg = runner_cfg(folder, branches=branches, batch_size=7, max_epochs=DRAWS)
    cfg.model.data_preprocessor = dict(
        type='SelfSupDataPreprocessor', mean=[99.0] * 3, std=[9.0] * 3
    )
    load = dict(type='mmmokd.LoadImage', channel_order='rgb', to_rgb=True)
    crop = dict(type='mmmokd.MultiCrop', groups=GROUPS)
    cfg.train_dataloader.drop_last = False
    pipeline = [load, crop, dict(type='PackInputs')]
    cfg.train_dataloader.dataset = dict(_delete_=True, type='mmmokd.Arrays', pipeline=pipeline)
    cfg.train_dataloader.dataset.pop('_delete_')
    cfg.default_hooks.update(
        data_health=dict(type='mmmokd.DataHealthHook'),
        input_check=dict(type='mmmokd.InputCheckHook'),
    )
    if frozen is True:
        cfg.optim_wrapper.branches.pop('vit')
        cfg.param_scheduler.pop('vit')
    return cfg


def writer(folder, partner, frozen, **kwargs):
    cfg = config(folder / 'writer', partner, frozen)
    fix_views(cfg, DRAWS, 0)
    runner = build_runner(cfg)
    runner.model.init_weights()
    return FeatureWriter(runner, 'vit', folder / 'features', **kwargs)


@pytest.mark.parametrize(
    ('frozen', 'dtype', 'tolerance'),
    [
        pytest.param(True, 'float32', 1e-5, marks=pytest.mark.long),
        ('backbone', 'float16', 3e-3),
        pytest.param('backbone', 'float32', 1e-5, marks=pytest.mark.long),
    ],
)
def test_cached_run_is_the_same(tmp_path, partner, frozen, dtype, tolerance):
    """Losses of a run that computes the features, without a pass of the backbone."""
    writer(tmp_path, partner, frozen, dtype=dtype).write()
    found, calls = [], []
    for cache in (None, str(tmp_path / 'features')):
        cfg = config(tmp_path / str(bool(cache)), partner, frozen, cache)
        # As the tools do it; the run that computes is to have the same views.
        (fix_cached_views(cfg) if cache else fix_views(cfg, DRAWS, 0))
        losses = []

        def keep(runner, losses=losses):
            hub = runner.message_hub.log_scalars
            losses.append({k: v.current() for k, v in hub.items() if '.loss_' in k})

        def listen(runner, cache=cache):
            backbone = runner.model.branches['vit'].teacher.backbone
            backbone.register_forward_hook(lambda *_: calls.append(bool(cache)))

        hook = AfterStep(keep)
        hook.before_train_epoch = listen
        train(cfg, hook)
        found.append(losses)
    computed, cached = found
    assert len(computed) == len(cached) == 2 * DRAWS
    assert True not in calls and calls
    for each, other in zip(computed, cached, strict=True):
        assert each.keys() == other.keys() and len(each) == (4 if frozen is True else 6)
        for key, value in each.items():
            assert other[key] == pytest.approx(value, rel=tolerance, abs=tolerance), key


def test_continues_and_refuses(tmp_path, partner, monkeypatch):
    """Shards that are there are not written again; features of something else are not mixed in."""
    monkeypatch.setattr('mmmokd.engine.feature_writer.SHARD_BYTES', 5 * 2112)
    made = writer(tmp_path, partner, 'backbone')
    assert made.row_bytes == 2112 and made.meta['images_per_shard'] == 5 and made.write() > 0
    folder = tmp_path / 'features'
    first, lost = shard_path(folder, 0, 0), shard_path(folder, 1, 1)
    stamp, content = first.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    again = writer(tmp_path, partner, 'backbone')
    assert again.write() > 0 and again.write() == 0
    assert lost.read_bytes() == content and first.stat().st_mtime_ns == stamp
    with pytest.raises(
        ValueError, match='features has features of other dtype, .*: name another folder'
    ):
        writer(tmp_path, partner, 'backbone', dtype='float32')
    with pytest.raises(ValueError, match='the backbone of branch vit learns'):
        writer(tmp_path, partner, False)
    usage = shutil.disk_usage('/')._replace(free=10)
    monkeypatch.setattr('shutil.disk_usage', lambda path: usage)
    shutil.rmtree(folder / '000')
    with pytest.raises(RuntimeError, match='GiB free: take fewer draws'):
        writer(tmp_path, partner, 'backbone')


def long(*case):
    return pytest.param(*case, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda cfg: cfg.train_dataloader.dataset.pipeline[1].groups[1].update(scale=(0.3, 0.5)),
         r'of other views: expected views.1.scale.0 0.2, but the run has 0.3'),
        long(lambda cfg: cfg.model.data_preprocessor.update(mean=[98.0] * 3),
             r'of other normalization: expected normalization.mean.0 99.0, but the run has 98.0'),
        long(lambda cfg: cfg.train_dataloader.dataset.update(indices=11),
             'of other num_images: expected num_images 12, but the run has 11'),
        long(lambda cfg: cfg.model.branches.vit.backbone.pop('init_cfg'), 'learn from noise'),
        long(lambda cfg: cfg.model.branches.vit.backbone.update(out_type='featmap'),
             'of other backbone: expected'),
        (lambda cfg: cfg.model.branches.vit.update(cache='nowhere'), 'no features in nowhere'),
        (lambda cfg: cfg.train_dataloader.dataset.pipeline[2].pop('meta_keys'),
         r'needs sample_idx and view_draw of every image, but the pipeline gives \['),
    ],
)  # fmt: skip
def test_mismatch_is_one_message(tmp_path, partner, features, change, message):
    cfg = config(tmp_path, partner, 'backbone', str(features))
    fix_cached_views(cfg)
    change(cfg)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(cfg)


@pytest.fixture(scope='module')
def features(tmp_path_factory, partner):
    folder = tmp_path_factory.mktemp('written')
    writer(folder, partner, 'backbone').write()
    return folder / 'features'


def test_what_is_kept_is_described(features, partner, tmp_path):
    """In features.json, by which other images, draws and statistics are told apart."""
    meta = json.loads((features / META).read_text())
    assert (meta['num_images'], meta['num_draws'], meta['seed']) == (IMAGES, DRAWS, 0)
    # Two passes: views, channels of the pooled feature, tokens, channels and grid of a map.
    assert meta['passes'] == [[2, 24, 16, 24, [4, 4]], [1, 24, 9, 24, [3, 3]]]
    cfg = config(tmp_path, partner, 'backbone')
    fix_views(cfg, DRAWS, 0)
    runner = build_runner(cfg)
    dataset, preprocessor = runner.train_dataloader.dataset, runner.model.data_preprocessor
    plain = describe_data(dataset, preprocessor)
    assert all(meta[key] == value for key, value in json.loads(json.dumps(plain)).items())
    (crop,) = (step for step in dataset.pipeline.transforms if isinstance(step, MultiCrop))
    crop.seed = 1
    assert describe_data(dataset, preprocessor)['drawn'] != plain['drawn']
    dataset.pixels = 255 - dataset.pixels
    other = type(dataset)(dataset.pixels, pipeline=[])
    other.pipeline = dataset.pipeline
    assert describe_data(other, preprocessor)['images'] != plain['images']
    check_cached_data(runner.model.branches, dataset, preprocessor)  # no branch has a cache
    with pytest.raises(ValueError, match='train_dataloader.dataset is a list'):
        describe_data([], preprocessor)
