# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# Methods and pairs of tools/benchmarks/rivals.py. A file of the same form, given by --table, adds
# entries or updates these.
#
# A method:
#   algorithm  names its configs, with the folder if that has another name; see `pattern` and
#              `configs` of the pair
#   options    values that override the config's, by dotted key, as --cfg-options; a key with {branch}
#              is meant for each branch
#   pairs      further options by pair, which also hold for pairs that build on it
#   teacher    the method that trains, beforehand, the branches that the config freezes
#   before     a tool in tools/ that is run with the config before the training
#   base       another method that this one updates
# <N> at the end of a method's name stands for a number, as do the values '<N>' of its options. In a
# value, {folder} is that of the run.
#
# A pair:
#   pattern    its configs; {algorithm} is a method's, {folder} what that begins with
#   configs    the config of an algorithm for which the pattern does not hold
#   size       a config that, with one by `pattern`, gives the data, the backbones, the optimizers, the
#              schedule and the evaluation; the rest of the model and its hooks are the algorithm's
#   branches   names of the size's branches, by those of the algorithms' configs and of the options above
#   options    as above
#   data       'fashion-mnist': the images of the repository are unpacked first
#   base       another pair that this one updates
off = {}
# The quick start's views, for methods that take none but global ones.
global_view = dict(
    size=28, scale=(0.5, 1.0), flip=0.0, grayscale=0.0, blur=0.0, color_jitter=(0.8, 0.8, 0.0, 0.0),
    color_jitter_prob=1.0,
)  # fmt: skip
two_views, four_views = ([dict(global_view, num=num)] for num in (2, 4))
# MOKD's model in the size's config, without cross terms.
alone = {
    'model.branches.{branch}.cross_weight': off,
    'model.branches.{branch}.heads.st': None,
    'model.branches.{branch}.search_head': None,
}
# The prototypes and the width of search heads of the small pairs.
narrow = {
    'model.neck_defaults.out_channels': 256,
    'model.neck_defaults.embed_dims': 64,
    'model.neck_defaults.num_heads': 2,
}
small_heads = {'fashion-mnist': narrow, 'cifar10-small': narrow}
groups = 'train_dataloader.dataset.pipeline.1.groups'

methods = {
    # DINO: every branch learns by itself.
    'alone': dict(
        algorithm='dino',
        pairs={
            'fashion-mnist': alone,
            'cifar10-small': alone,
            # As MOKD has it for this pair.
            'cifar10-resnets': {
                'model.branches.vit.projector.train_gain': False,
                'model.branches.vit.heads.sm': dict(warmup_teacher_temp=0.01, teacher_temp=0.01),
            },
        },
    ),
    'mokd': dict(algorithm='mokd'),
    # Ablations of MOKD.
    'mokd-no-cross': dict(base='mokd', options={'model.branches.{branch}.cross_weight': off}),
    'mokd-no-ct': dict(base='mokd', options={'model.branches.{branch}.heads.ct': None}),
    'mokd-no-cm': dict(base='mokd', options={'model.branches.{branch}.heads.cm': None}),
    'mokd-w<N>': dict(base='mokd', options={'model.branches.{branch}.cross_weight': '<N>'}),
    'mokd-search<N>': dict(
        base='mokd', options={'model.branches.{branch}.search_head.num_layers': '<N>'}
    ),
    'mokd-proto<N>': dict(base='mokd', options={'model.neck_defaults.out_channels': '<N>'}),
    'mokd-momentum<N>': dict(
        base='mokd', options={'default_hooks.ema_teacher.base_momentum': '<N>'}
    ),
    # MOKD in other frameworks.
    'mokd-mocov3': dict(algorithm='mokd/variants/mokd-mocov3', pairs=small_heads),
    'mokd-byol': dict(algorithm='mokd/variants/mokd-byol', pairs=small_heads),
    'mokd-simsiam': dict(algorithm='mokd/variants/mokd-simsiam', pairs=small_heads),
    'mokd-swav': dict(algorithm='mokd/variants/mokd-swav', pairs=small_heads),
    'mokd-ibot': dict(algorithm='mokd/variants/mokd-ibot', pairs=small_heads),
    # Rivals.
    'dogo': dict(algorithm='dogo', pairs={'fashion-mnist': {groups: four_views}}),
    'dogo-simsiam': dict(base='dogo', algorithm='dogo-simsiam'),
    'mcl': dict(
        algorithm='mcl',
        pairs={key: {'model.queue_length': 1024} for key in ('fashion-mnist', 'cifar10-small')},
    ),
    # Rivals that learn from a trained teacher.
    'seed': dict(
        algorithm='seed',
        teacher='alone',
        pairs={
            'fashion-mnist': {
                # As wide as the teacher's features.
                'model.neck_defaults': dict(hid_channels=256, out_channels=64),
                'model.branches.cnn.heads.seed.queue_length': 1024,
            },
            'cifar10-small': {
                'model.neck_defaults': dict(hid_channels=256, out_channels=64),
                'model.branches.cnn.heads.seed.queue_length': 1024,
            },
            'cifar10-resnets': {'model.neck_defaults.out_channels': 2048},
        },
    ),
    'compress': dict(
        algorithm='compress',
        teacher='alone',
        pairs={
            'fashion-mnist': {
                'model.branches.cnn.heads.kl.queue_length': 1024,
                groups: two_views,
            },
        },
    ),
    'disco': dict(
        algorithm='disco',
        teacher='alone',
        pairs={
            'fashion-mnist': {
                'model.branches.cnn.heads.co.queue_length': 1024,
                groups: two_views,
            },
        },
    ),
    'bingo': dict(
        algorithm='bingo',
        teacher='alone',
        before='dataset_converters/find_neighbors.py',
        options={'train_dataloader.dataset.neighbors': '{folder}/neighbors.npz'},
        pairs={
            'fashion-mnist': {
                'model.branches.cnn.heads.bag.queue_length': 1024,
                'train_dataloader.dataset.dataset.pipeline.1.groups': two_views,
            },
        },
    ),
}

cifar10 = '{folder}/{algorithm}_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'
quick_start = 'mokd/quickstart/mokd_cnn-vit_fashion-mnist.py'
small = 'mokd/quickstart/mokd_cnn-vit_cifar10.py'
resnets = 'mokd/mokd_resnet18_resnet50_1xb256-amp-coslr-200e_cifar10.py'
pairs = {
    # The quick start: a narrow ResNet-18 and a small ViT, 10,000 images of Fashion-MNIST, 5 epochs.
    'fashion-mnist': dict(
        pattern=cifar10,
        configs=dict(mokd=quick_start, dino=quick_start),
        size=quick_start,
        data='fashion-mnist',
        options={'val_cfg.maps': False, 'test_cfg.maps': False},
    ),
    # The same with 1,024 images and two epochs: shows that everything runs.
    'fashion-mnist-1k': dict(
        base='fashion-mnist',
        options={
            'train_dataloader.dataset.indices': 1024,
            'val_cfg.bank_dataloader.dataset.indices': 1024,
            'test_cfg.bank_dataloader.dataset.indices': 1024,
            'train_cfg.max_epochs': 2,
            'default_hooks.logger.interval': 8,
            'default_hooks.collapse_monitor.interval': 8,
        },
    ),
    # A narrow ResNet-18 and a small ViT, 25,000 images of CIFAR-10, 2 epochs: for CPUs.
    'cifar10-small': dict(pattern=cifar10, configs=dict(mokd=small, dino=small), size=small),
    # ResNet-18 and ViT-Ti/4, 50,000 images.
    'cifar10': dict(pattern=cifar10),
    # ResNet-18 and ResNet-50.
    'cifar10-resnets': dict(
        pattern=cifar10,
        configs=dict(mokd=resnets),
        size=resnets,
        branches=dict(cnn='resnet18', vit='resnet50'),
    ),
    # ResNet-18 and ViT-Ti/4, with images and views on the GPU.
    'cifar10-gpu': dict(
        base='cifar10',
        options={
            'data_preprocessor.type': 'mmmokd.MultiCropDataPreprocessor',
            'data_preprocessor.keep_images': True,
        },
    ),
}
del (
    off,
    global_view,
    two_views,
    four_views,
    alone,
    narrow,
    small_heads,
    groups,
    cifar10,
    quick_start,
)
del small, resnets
