# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit as _PretrainedInit
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import Tensor, nn

from mmmokd.utils.errors import CheckpointError
from mmmokd.utils.state_dict import load_state_dict_strict, name_some
from mmmokd.weights.mokd_checkpoint import (
    WeightFile,
    describe_contents,
    list_branches,
    read_weights,
    select_weights,
    to_weight_file,
)

from .backbones import adapt_weights, backbone_kind, load_backbone
from .initialization import remember_loaded
from .locate import find_backbone
from .lora import is_lora

PUBLISHED = ('modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://')


# Under mmengine's own name, and not one of ours: mmengine initializes by `Pretrained` after, and by
# anything else before, the module's children initialize themselves.
@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class PretrainedInit(_PretrainedInit):
    """mmengine's ``Pretrained`` with strict loading: a checkpoint never fails to load silently.

    Importing mmmokd puts it in the place of mmengine's, for mmpretrain, mmdet and mmseg alike. Of a
    checkpoint of MOKD, this package's or the authors', every weight of the module must be in it and
    fit; a wrong prefix is an error that lists the branches. So it is for a plain ViT or ResNet of any
    other file, whose weights may lie below any name: those of the teacher, or of an average, are
    taken where there are several, as the log tells. What is not a ViT or ResNet loads as mmengine loads
    it, what is missing being logged, except that it is an error if nothing fits at all. A local file
    is never unpickled. A ViT's weights may have the names of mmpretrain, mmseg, timm (official DINO's
    and DINOv2's as well) or torchvision.

    Args:
        checkpoint (str): A local file, or anything else that mmengine can load.
        prefix (str, optional): What the names of the weights to load begin with, for example
            ``'branches.cnn.teacher.backbone.'``. Defaults to None, all weights of the file.
        map_location (str): Device to read to. Defaults to 'cpu'.
        strict (bool): Whether every weight of the module must be in it and fit, whatever the file.
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
            MissingFileError: If there is no such file.
            CheckpointError: If the file cannot be read safely, or the weights do not fit.
        """
        name = type(module).__name__
        if not self.checkpoint:
            raise CheckpointError(f"init_cfg of {name} is 'Pretrained', but names no checkpoint")
        file = self._read()
        own = module.state_dict()
        branches = list_branches(file.weights)
        if self.prefix is None and branches and not own.keys() & file.weights.keys():
            raise CheckpointError(
                f'init_cfg of {name} gives no prefix for the MOKD checkpoint {self.checkpoint}. '
                + describe_contents(file)
            )
        if self.prefix is None and branches:
            left_out = load_state_dict_strict(module, file.weights, str(self.checkpoint))
            self._log_all(name, own, f'{self.checkpoint}', left_out)
        else:
            self._load_part(module, own, file, bool(branches))
        remember_loaded(module)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _load_part(
        self, module: nn.Module, own: dict[str, Tensor], file: WeightFile, of_mokd: bool
    ) -> None:
        """Load what is below the prefix, or where else in the file the module's weights are."""
        weights = file.weights if self.prefix is None else select_weights(file, self.prefix)
        source = f'{self.checkpoint}' + (f' ({self.prefix})' if self.prefix else '')
        weights, source = self._find(weights, own, source, file.project)
        kind = backbone_kind(_bare(own))
        known = kind is not None and kind == backbone_kind(weights)
        known = known or hasattr(module, 'timm_model')  # which has no head that a file might lack
        strict = self.strict or of_mokd
        name = type(module).__name__
        if strict or (known and not _is_published(self.checkpoint)):
            left_out = load_backbone(module, weights, source, extras=not strict)
            if not any(map(is_lora, weights)):  # updates then begin at zero
                own = {key: value for key, value in own.items() if not is_lora(key)}
            self._log_all(name, own, source, left_out)
            return
        weights = adapt_weights(weights, own, source)
        if not any(k in own and own[k].shape == v.shape for k, v in weights.items()):
            raise CheckpointError(
                f'not one of the {len(weights)} weights of {source} fits one of the {len(own)} '
                f'of {name}: for example {next(iter(weights), None)} and {next(iter(own), None)}'
            )
        print_log(f'{name}: loading {source}', logger='current')
        load_state_dict(module, weights, strict=False, logger='current')

    def _find(
        self, weights: dict[str, Tensor], own: dict[str, Tensor], source: str, project: str
    ) -> tuple[dict[str, Tensor], str]:
        found = find_backbone(weights, _bare(own), source)
        if found.prefix:
            source += f', {found.prefix!r}'
        if project:
            source += f' (official {project})'
        if found.others:
            print_log(
                f'{source} is taken, and not {name_some([repr(x) for x in found.others])}: to take '
                'another, give it as the prefix in init_cfg',
                logger='current',
            )
        return found.weights, source

    @staticmethod
    def _log_all(name: str, own: dict[str, Tensor], source: str, left_out: list[str]) -> None:
        print_log(
            f'{name}: all {len(own)} weights loaded from {source}'
            + (f'; it has no part for {name_some(left_out)}' if left_out else ''),
            logger='current',
        )

    def _read(self) -> WeightFile:
        if '://' not in str(self.checkpoint):
            return read_weights(self.checkpoint, self.map_location)
        content = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location, 'current')
        return to_weight_file(self.checkpoint, content)


def _bare(names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the level that mmpretrain's wrapper of timm's models adds."""
    return {key.removeprefix('timm_model.'): value for key, value in names.items()}


def _is_published(checkpoint: str) -> bool:
    """Tell whether it is a model that mmengine knows by name, as its libraries' configs use.

    Some have more weights than their model, as the bias of Caffe's first convolution.
    """
    return str(checkpoint).startswith(PUBLISHED)
