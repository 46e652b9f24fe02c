# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import functools
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import BackboneFeatures, NetworkOutput
from mmmokd.structures.network_output import FEATURES
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.state_dict import name_some
from mmmokd.weights.loaded import is_pretrained, pretrained_entries

from ..utils import add_lora
from .backbone import build_backbone, class_of, describe_backbone, has_argument
from .inference import BackboneSpec, ImageSizeError, in_evaluation, infer_features
from .masking import masked_patches, patch_embedding


class BranchNetwork(BaseModule):
    """A backbone with any number of named necks: a branch's student or teacher.

    A neck is called with a tuple of the pooled features, as mmpretrain's necks are, or of the output
    of the neck that its config names by ``reads``, as a predictor reads a projector; or, if it has
    ``reads_maps = True``, with the list of the passes' :class:`BackboneFeatures`; it gives one row
    per view and image, alone or as the last of a tuple. A neck with ``embeds_maps = True``
    (:class:`TransformerSearchHead`) is called with ``mode='embed'`` before, and with the result of
    that. Backbone and necks are only ever entered by their call.

    ``in_channels`` and ``grid_size`` of a neck that takes them and whose config has none are those
    of the backbone, found by passing an image of zeros through it.

    A backbone of one channel (``in_channels=1``) gets the mean of the images' three, which of gray
    images are equal.

    Args:
        backbone (dict): Config of any backbone that the adapter can read; see
            :func:`build_backbone` for what is added to it. An ``init_cfg`` of ``'Pretrained'`` must
            bring all of its weights.
        adapter (dict, optional): Config of a :class:`BackboneAdapter`. Defaults to None, an
            :class:`AutoAdapter`.
        global_size (int | tuple[int, int], optional): Side, or (H, W), of the global views in
            pixels, for ``grid_size``. Defaults to None, the size that the backbone was made for.
        frozen_backbone (bool): Whether the backbone is not trained: always in evaluation mode, and
            without gradients. Defaults to False.
        lora (dict, optional): Low-rank updates that the backbone learns in place of its weights: the
            arguments ``rank``, ``alpha`` and ``targets`` of :func:`~mmmokd.models.utils.add_lora`.
            Defaults to None.
        init_cfg (dict, optional): Initialization config. Defaults to None.
        **necks (dict): Config of each neck by its name.

    Raises:
        ConfigError: If a neck has a name that is taken or reads an unknown neck, the backbone cannot
            take the image, or its layers cannot have updates.
    """

    def __init__(
        self,
        backbone: dict,
        adapter: dict | None = None,
        global_size: int | tuple[int, int] | None = None,
        frozen_backbone: bool = False,
        lora: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
        **necks: dict,
    ) -> None:
        super().__init__(init_cfg)
        self.backbone_cfg = backbone
        self.image_channels = backbone.get('in_channels', backbone.get('in_chans', 3))
        self.global_size = global_size
        self.backbone = build_backbone(_load_all(backbone))
        self.adapter = MODELS.build(adapter or dict(type='mmmokd.AutoAdapter'))
        self.frozen_backbone = frozen_backbone
        self.has_lora = bool(lora)
        if frozen_backbone:
            self.backbone.requires_grad_(False)
            self.train()
        if lora:
            self._add_lora(lora)
        self.neck_names = tuple(necks)
        self.sources = {name: cfg.get('reads', 'pooled') for name, cfg in necks.items()}
        self._widths = {name: cfg.get('out_channels') for name, cfg in necks.items()}
        for name, cfg in necks.items():
            if name in FEATURES or hasattr(self, name) or not name.isidentifier():
                raise ConfigError(f'a neck cannot be named {name!r}: choose another name')
            setattr(self, name, MODELS.build(self._complete(name, cfg)))

    def _add_lora(self, lora: dict) -> None:
        """Give layers of the backbone updates, which have to act in its pass."""
        names = add_lora(self.backbone, **lora)
        called: set[nn.Module] = set()
        layers = {name: self.backbone.get_submodule(name) for name in names}
        handles = [
            layer.register_forward_hook(lambda layer, *_: called.add(layer))
            for layer in layers.values()
        ]
        self.spec  # noqa: B018  one pass
        for handle in handles:
            handle.remove()
        idle = [name for name, layer in layers.items() if layer not in called]
        if idle:
            raise ConfigError(
                f'lora.targets: {describe_backbone(self.backbone_cfg)} uses the weights of '
                f'{name_some(idle)} without calling the layer, so that an update would not act: name '
                'others'
            )

    def train(self, mode: bool = True) -> 'BranchNetwork':
        """Set training or evaluation mode; a frozen backbone stays in evaluation mode.

        Args:
            mode (bool): Whether to train. Defaults to True.

        Returns:
            BranchNetwork: The network itself.
        """
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self

    @functools.cached_property
    def spec(self) -> BackboneSpec:
        """BackboneSpec: What the backbone gives of an image of ``global_size``."""
        return infer_features(self.backbone, self.global_size, self.adapter, self.image_channels)

    def width(self, reads: str) -> int | None:
        """Look up the channels of what a head reads.

        Args:
            reads (str): ``'pooled'``, ``'tokens'`` or the name of a neck.

        Returns:
            int, optional: Its last axis; None if the neck does not tell.
        """
        if reads in FEATURES:
            return self.spec.pooled_channels if reads == 'pooled' else self.spec.token_channels
        return getattr(getattr(self, reads), 'out_channels', self._widths[reads])

    def _complete(self, name: str, cfg: dict) -> dict:
        """A neck's config with what the backbone, or the neck that it reads, tells."""
        cls = class_of(cfg)
        if 'reads' in cfg:
            cfg = {key: value for key, value in cfg.items() if key != 'reads'}
            width = self._width_of_source(name, cls)
            known = width is not None and has_argument(cls, 'in_channels')
            return {**(dict(in_channels=width) if known else {}), **cfg}
        lacks = [k for k in ('in_channels', 'grid_size') if k not in cfg and has_argument(cls, k)]
        if not lacks:
            return cfg
        try:
            spec = self.spec
        except ImageSizeError as error:
            raise ConfigError(
                f'{error}. To find {" and ".join(lacks)} of {name}, an image of the size '
                'model.global_size was used: set it to that of the global views, or give them in '
                'the config'
            ) from error
        reads_maps = getattr(cls, 'reads_maps', False)
        found = dict(
            in_channels=spec.token_channels if reads_maps else spec.pooled_channels,
            grid_size=spec.grid,
        )
        return dict(cfg, **{key: found[key] for key in lacks})

    def _width_of_source(self, name: str, cls: type | None) -> int | None:
        """Channels of what a neck reads that its config names."""
        source, built = self.sources[name], self.neck_names[: self.neck_names.index(name)]
        if source not in ('pooled', *built):
            raise ConfigError(
                f"{name}.reads must be 'pooled' or a neck before it ({', '.join(built) or 'none'}), "
                f'but got {source!r}'
            )
        if getattr(cls, 'reads_maps', False):
            raise ConfigError(
                f'{name} ({cls.__name__}) reads feature maps, so it takes no reads={source!r}'
            )
        return self.width(source)

    def forward(
        self,
        groups: Sequence[Sequence[Tensor]],
        batch: int,
        passes: Sequence[BackboneFeatures] | None = None,
    ) -> NetworkOutput:
        """Run the backbone, one pass for each group of views; the necks run when they are read.

        Args:
            groups (Sequence[Sequence[Tensor]]): Views of one size, each (B, 3, H, W), by pass.
            batch (int): Number B of images.
            passes (Sequence[BackboneFeatures], optional): What the backbone gives of each group, where
                that is known: it does not run then. Defaults to None.

        Returns:
            NetworkOutput: Of all views, in their order.
        """
        if passes is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_backbone):
                passes = [self.extract(torch.cat(list(group))) for group in groups]
        return NetworkOutput(self, passes, batch)

    def extract(self, images: Tensor) -> BackboneFeatures:
        """Run the backbone.

        Args:
            images (Tensor): Shape (B, 3, H, W).

        Returns:
            BackboneFeatures: Pooled feature, tokens, grid.

        Raises:
            ConfigError: If the images' channels are not those of the backbone, or the features'
                not those that a neck was built for.
        """
        images = self._with_channels(images)
        features = self.adapter(self.backbone(images), self.backbone, images.shape[-2:])
        for name in self.neck_names:
            if self.sources[name] == 'pooled':
                self._check_channels(getattr(self, name), features)
        return features

    def extract_masked(self, images: Tensor, mask: Tensor, token: Tensor) -> BackboneFeatures:
        """Run the backbone, a ViT, over images of which patches are masked.

        Args:
            images (Tensor): Shape (B, 3, H, W).
            mask (Tensor): True for masked patches, shape (B, N).
            token (Tensor): What the backbone sees of these instead of their embedding, shape (C,).

        Returns:
            BackboneFeatures: Pooled feature, tokens, grid.

        Raises:
            ConfigError: See :meth:`extract`; also if the backbone does not embed one patch for each
                token of its map.
        """
        with masked_patches(self.backbone, mask, token):
            return self.extract(images)

    def check_masks_patches(self) -> None:
        """Check that :meth:`extract_masked` works, by an image of zeros.

        Raises:
            ConfigError: If the backbone is not a ViT.
        """
        patch_embedding(self.backbone)
        h, w = self.spec.grid
        weight = next(self.backbone.parameters())
        image = weight.new_zeros(1, 3, *self.spec.size)
        mask = torch.zeros(1, h * w, dtype=torch.bool, device=weight.device)
        with in_evaluation(self):
            self.extract_masked(image, mask, weight.new_zeros(self.spec.token_channels))

    def _check_channels(self, neck: nn.Module, features: BackboneFeatures) -> None:
        wanted = getattr(neck, 'in_channels', None)
        pooled, tokens = features.pooled.shape[-1], features.tokens.shape[-1]
        given = [tokens] if getattr(neck, 'reads_maps', False) else [pooled]
        if getattr(neck, 'embeds_maps', False):
            given.append(pooled)  # of which it makes queries
        for found in given:
            if isinstance(wanted, int) and wanted != found:
                raise ConfigError(
                    f'the backbone {type(self.backbone).__name__} gives {found} channels, but '
                    f'{type(neck).__name__} was built with in_channels={wanted}'
                )

    def _with_channels(self, images: Tensor) -> Tensor:
        """Images with the channels that the backbone takes, where gray and color differ only."""
        found, wanted = images.shape[1], self.image_channels
        if found == wanted:
            return images
        if found == 3 and wanted == 1:
            return images.mean(dim=1, keepdim=True)
        if found == 1 and wanted == 3:
            return images.expand(-1, 3, -1, -1)
        raise ConfigError(
            f'the backbone {describe_backbone(self.backbone_cfg)} takes images of {wanted} channels '
            f'(in_channels), but the pipeline and the data_preprocessor give {found}'
        )


def _load_all(backbone: dict) -> dict:
    """A backbone's config, in which pretrained weights must be complete if there are any."""
    init_cfg = backbone.get('init_cfg')
    if not pretrained_entries(init_cfg):
        return backbone
    entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    strict = [{'strict': True, **each} if is_pretrained(each) else each for each in entries]
    return dict(backbone, init_cfg=strict[0] if len(strict) == 1 else strict)
