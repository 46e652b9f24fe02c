# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmokd.registry import MODELS
from mmmokd.structures import NetworkOutput, Views
from mmmokd.utils.errors import ConfigError

from ..losses import at_least_float32
from ..utils import check_counts, draw_patch_masks, gain_and_direction, mean_logits
from .distillation_head import DistillationHead


@MODELS.register_module()
class MaskedPatchHead(DistillationHead):
    """Masked image modeling of `iBOT <https://arxiv.org/abs/2111.07832>`_, for ViTs.

    The student sees the global views once more, with a mask token in place of some patches. At these
    places its tokens predict, through a patch projector, the distribution over prototypes that the
    teacher gives the patch, which sees the whole view: CE(softmax((t - c) / T_t),
    log-softmax(s / T_s)), averaged over the masked patches of a view, then over all global views of
    all images; those without a mask count as 0. The center c is the running mean over all of the
    teacher's patches, see :class:`DistillationHead`.

    iBOT's other term, L_[CLS], is L_sm. (In iBOT its student sees the masked views; here the
    ordinary pass stays as it is for all other terms.) iBOT shares one projector between the two:
    ``reads='projector'`` does, for a pooled feature as wide as the tokens.

    The mask token is a parameter of the head, so backbones and their weights stay as they are.

    Args:
        out_channels (int): Number K of prototypes. A branch gives its neck's where the config of the
            head has none.
        token_channels (int): Width C of the embedded patches. A branch gives that of its tokens where
            the config of the head has none.
        reads (str): Name of the patch projector, a neck that takes tokens (n, C) as it would pooled
            features. Defaults to ``'patch_projector'``.
        mask_ratio (tuple[float, float]): Range of the share of patches that is masked. Defaults to
            (0.1, 0.5).
        mask_prob (float): Probability that a view is masked, in (0, 1]. Defaults to 0.5.
        mask_blocks (bool): Whether blocks are masked, instead of single patches; see
            :func:`~mmmokd.models.utils.draw_patch_masks`. Defaults to True.
        **kwargs: Center, temperatures and weight: see :class:`DistillationHead`. The teacher is the
            branch's own.

    Raises:
        ConfigError: If a value is out of range, ``teacher`` is not ``'own'``, or the branch's backbone
            is not a ViT.

    Example:
        >>> branch = dict(
        ...     backbone=dict(type='mmmokd.VisionTransformer', arch='deit-small'),
        ...     patch_projector=dict(type='mmmokd.DINOProjector', out_channels=8192),
        ...     heads=dict(patch=dict(type='mmmokd.MaskedPatchHead')))
    """

    masks_patches = True
    capturable = False  # masks are drawn on the CPU, and their patches are as many as they are

    def __init__(
        self,
        out_channels: int,
        token_channels: int,
        reads: str = 'patch_projector',
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        mask_prob: float = 0.5,
        mask_blocks: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(out_channels, reads, **kwargs)
        if self.teacher != 'own':
            raise ConfigError(
                f"MaskedPatchHead learns from the branch's own teacher, but teacher is {self.teacher!r}"
            )
        check_counts('MaskedPatchHead', token_channels=token_channels)
        _check_mask(mask_ratio, mask_prob)
        self.mask_ratio = tuple(mask_ratio)
        self.mask_prob = mask_prob
        self.mask_blocks = mask_blocks
        self.mask_token = nn.Parameter(torch.zeros(1, token_channels))

    def target(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> None:
        """None: :meth:`loss` is called, as this is not a cross-entropy between views."""
        return None

    def loss(self, student: NetworkOutput, teacher: NetworkOutput, views: Views) -> Tensor:
        """Run the student over masked views and compute the weighted loss.

        Args:
            student (NetworkOutput): Of all views, the G global ones first.
            teacher (NetworkOutput): Of the global views, without gradient.
            views (Views): The views.

        Returns:
            Tensor: Scalar.
        """
        images = torch.cat(views.globals)
        masks = self.draw_masks(len(images), student.passes[0].grid)  # (G * B, N)
        # On the CPU, where the masks are: a step does not wait for the GPU to count.
        places = masks.flatten().nonzero().squeeze(1)
        weights = (masks / masks.sum(dim=1, keepdim=True).clamp(min=1)).flatten()[places]
        masks, places, weights = (
            each.to(images.device, non_blocking=True) for each in (masks, places, weights)
        )
        tokens = student.network.extract_masked(images, masks, self.mask_token[0]).tokens
        own = tokens.flatten(0, 1)[places]
        neck, layer = student.neck(self.reads), student.prototype_layer(self.reads)
        if layer is None:
            logits = _project(neck, own)
        else:
            logits = _score(neck(own, mode='features'), layer)
        with torch.no_grad():
            target, mean = self._target_of_patches(teacher, places)
        loss = self(logits, target, weights / len(images))
        if self.training:
            self._move_center(mean)
        return loss

    def draw_masks(self, num_images: int, grid: tuple[int, int]) -> Tensor:
        """Draw the masks of a step.

        Args:
            num_images (int): Number n of views and images.
            grid (tuple[int, int]): Number (h, w) of patches along the sides.

        Returns:
            Tensor: True for masked patches, shape (n, h * w), on the CPU.
        """
        return draw_patch_masks(num_images, grid, self.mask_ratio, self.mask_prob, self.mask_blocks)

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """The weighted loss of masked patches.

        Args:
            student (Tensor): Logits, shape (M, K).
            teacher (Tensor): Logits, shape (M, K), without gradient.
            weights (Tensor): Weight of each patch, shape (M,).

        Returns:
            Tensor: Scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            log_probs = F.log_softmax(at_least_float32(student) / self.student_temp, dim=-1)
            losses = -(self.targets(teacher) * log_probs).sum(dim=-1)
            return self.loss_weight * (losses @ weights.to(losses.dtype))

    def _target_of_patches(self, teacher: NetworkOutput, places: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the masked patches, (M, K), and the mean logits of all patches, (K,)."""
        neck, layer = teacher.neck(self.reads), teacher.prototype_layer(self.reads)
        tokens = teacher.passes[0].tokens.flatten(0, 1)  # (G * B * N, C)
        if layer is None:
            logits = _project(neck, tokens)
            return logits[places], at_least_float32(logits).mean(dim=0)
        features = neck(tokens, mode='features')
        return _score(features[places], layer), mean_logits(features, layer)


def _score(features: Tensor, layer: nn.Linear) -> Tensor:
    """Logits that mixed precision does not round."""
    with torch.autocast(features.device.type, enabled=False):
        return layer(at_least_float32(features).to(gain_and_direction(layer)[1].dtype))


def _project(neck: BaseModule, tokens: Tensor) -> Tensor:
    # As mmpretrain's necks: a tuple of stages in, a tensor or a tuple out.
    found = neck((tokens,))
    return found[-1] if isinstance(found, list | tuple) else found


def _check_mask(ratio: tuple[float, float], prob: float) -> None:
    is_range = isinstance(ratio, list | tuple) and len(ratio) == 2
    if not is_range or not 0 < ratio[0] <= ratio[1] <= 1:
        raise ConfigError(
            f'mask_ratio of MaskedPatchHead must be (low, high) in (0, 1], but got {ratio!r}'
        )
    if isinstance(prob, bool) or not 0 < prob <= 1:
        raise ConfigError(f'mask_prob of MaskedPatchHead must be in (0, 1], but got {prob!r}')
