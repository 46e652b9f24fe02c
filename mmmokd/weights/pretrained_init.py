# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit as _PretrainedInit
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import nn

from mmmokd.utils.state_dict import name_some, strip_module_prefix

from .branches import (
    WeightFile,
    adapt_weights,
    describe_contents,
    list_branches,
    load_backbone,
    read_weights,
    select_weights,
)


# Under mmengine's own name, and not one of ours: mmengine initialises by `Pretrained` after, and by
# anything else before, the module's children initialise themselves.
@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class PretrainedInit(_PretrainedInit):
    """mmengine's ``Pretrained``, which does not let a MOKD checkpoint fail to load in silence.

    Importing mmmokd puts it in the place of mmengine's, for mmpretrain, mmdet and mmseg alike. Of a
    checkpoint of MOKD, this package's or the authors', every weight of the module must be there and
    fit; a wrong prefix is an error that lists the branches. Other files load as mmengine loads
    them, what is missing being logged, except that it is an error if nothing fits at all. A local
    file is never unpickled. A ViT's weights may have the names of mmpretrain, mmseg, timm or
    torchvision.

    Args:
        checkpoint (str): A local file, or anything else that mmengine can load.
        prefix (str, optional): What the names of the weights to load begin with, for example
            ``'branches.cnn.teacher.backbone.'``. Defaults to None, all weights of the file.
        map_location (str): Device to read to. Defaults to 'cpu'.
        strict (bool): Whether every weight of the module must be there and fit, whatever the file.
            The backbones of MOKD's branches set it. Defaults to False.

    Example:
        >>> init_cfg = dict(
        ...     type='Pretrained',
        ...     checkpoint='work_dirs/.../epoch_100.pth',
        ...     prefix='branches.cnn.teacher.backbone.',
        ... )
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = 'cpu',
        strict: bool = False,
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.strict = strict

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a module.

        Args:
            module (nn.Module): Any module.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read safely, or the weights do not fit.
        """
        name = type(module).__name__
        if not self.checkpoint:
            raise ValueError(f"init_cfg of {name} is 'Pretrained', but names no checkpoint")
        file = self._read()
        if self.prefix is not None:
            weights = select_weights(file, self.prefix)
        else:
            weights = file.weights
        source = f'{self.checkpoint}' + (f' ({self.prefix})' if self.prefix else '')
        branches = list_branches(file.weights)
        own = module.state_dict()
        if self.prefix is None and branches and not own.keys() & weights.keys():
            raise ValueError(
                f'init_cfg of {name} gives no prefix for the MOKD checkpoint {self.checkpoint}. '
                + describe_contents(file)
            )
        if self.strict or (branches and self.prefix is not None):
            left_out = load_backbone(module, weights, source)
            print_log(
                f'{name}: all {len(own)} weights loaded from {source}'
                + (f'; it has no part for {name_some(left_out)}' if left_out else ''),
                logger='current',
            )
        else:
            weights = adapt_weights(weights, own, source)
            if not any(k in own and own[k].shape == v.shape for k, v in weights.items()):
                raise ValueError(
                    f'not one of the {len(weights)} weights of {source} fits one of the {len(own)} '
                    f'of {name}: for example {next(iter(weights), None)} and {next(iter(own), None)}'
                )
            print_log(f'{name}: loading {source}', logger='current')
            load_state_dict(module, weights, strict=False, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _read(self) -> WeightFile:
        if '://' not in str(self.checkpoint):
            return read_weights(self.checkpoint, self.map_location)
        content = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location, 'current')
        weights = content.get('state_dict', content)
        return WeightFile(self.checkpoint, strip_module_prefix(weights), {})
