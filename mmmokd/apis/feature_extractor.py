# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmmokd.registry import TRANSFORMS
from mmmokd.utils.config_tree import type_name
from mmmokd.utils.errors import BadImageError, ConfigError

from .model import check_names, init_model, list_models

FEATURES = ('pooled', 'map')
Features = Tensor | dict[str, Tensor]


class FeatureExtractor:
    """Extract features of images: of a file, several, arrays, or all images of a folder.

    Images are read and resized as ``tools/evaluate.py --data`` does it: by the config's test
    pipeline or, where it has none for images of any size, by a center crop of the size trained on.

    Args:
        model (str | Path | Config | nn.Module): A config, by whatever :func:`init_model` takes, or a
            whole model that it built.
        pretrained (str | Path, optional): Checkpoint of a config's model. Defaults to None: the
            model is not trained, as a warning says.
        device (str | torch.device, optional): Where to compute. Defaults to None: the GPU if there
            is one.
        branch (str, optional): The branch whose features to give. Defaults to None, all.
        network (str): Which of a branch's networks, ``'teacher'`` or ``'student'``. Defaults to
            ``'teacher'``.

    Raises:
        MissingFileError: If there is no such config or checkpoint.
        ConfigError: If there is no such branch or network, or the config does not define how images are
            read.
        CheckpointError: If the checkpoint does not fit the model.

    Example:
        >>> from mmmokd.apis import FeatureExtractor
        >>> extract = FeatureExtractor('my_config.py', 'epoch_100.pth', branch='vit')
        >>> extract('cat.jpg')[0].shape
        torch.Size([384])
        >>> features = torch.stack(extract('/my/images', batch_size=64, num_workers=4))
        >>> files = extract.list_images('/my/images')  # in the same order
        >>> extract('cat.jpg', feature='map')[0].shape
        torch.Size([384, 14, 14])
    """

    def __init__(
        self,
        model: str | Path | Config | nn.Module,
        pretrained: str | Path | None = None,
        device: str | torch.device | None = None,
        branch: str | None = None,
        network: str = 'teacher',
    ) -> None:
        if not isinstance(model, nn.Module):
            model = init_model(model, pretrained)
        elif pretrained is not None:
            raise ConfigError('pretrained is for a config; a model has its weights already')
        if not hasattr(model, '_config') or not hasattr(model, 'extract_feat'):
            raise ConfigError(
                f'{type(model).__name__} does not define how its images are read: give FeatureExtractor '
                'a config and a checkpoint (and a branch), or the whole model that init_model built'
            )
        from mmmokd.evaluation.networks import find_networks, has_branches
        from mmmokd.evaluation.pipeline import evaluation_pipeline

        check_names(model._config, branch, network)
        self.model = model.to(device or get_device())
        self.model.eval()
        self.config = model._config
        found = {n.partition('.')[0]: net for n, net in find_networks(model, [network]).items()}
        self.networks = found if branch is None else {branch: found[branch]}
        self.single = branch is not None or not has_branches(model)
        pipeline = evaluation_pipeline(self.config)
        if type_name(pipeline[0]['type']) == 'LoadImage':
            pipeline = [dict(pipeline[0], skip_bad=False), *pipeline[1:]]
        with DefaultScope.overwrite_default_scope(self.config.get('default_scope', 'mmpretrain')):
            self._load, *rest = [TRANSFORMS.build(transform) for transform in pipeline]
        self._rest = Compose(rest)

    def __call__(
        self,
        inputs: str | Path | np.ndarray | Sequence,
        batch_size: int = 1,
        show_progress: bool = True,
        feature: str = 'pooled',
        channel_order: str = 'bgr',
        num_workers: int = 0,
    ) -> list[Features]:
        """Extract features.

        Args:
            inputs (str | Path | np.ndarray | Sequence): An image file; a folder, of which all images
                are taken, also from folders in it, in the order of :meth:`list_images`; an array
                (H, W), (H, W, 3) or, of several images, (N, H, W, 3); or a list of files and arrays.
            batch_size (int): Images computed at a time. Defaults to 1.
            show_progress (bool): Whether to show a progress bar. Defaults to True.
            feature (str): ``'pooled'``, one vector, or ``'map'``, the last feature map. Defaults to
                ``'pooled'``.
            channel_order (str): ``'bgr'``, as OpenCV reads images, or ``'rgb'``: the order of the
                channels in arrays. Defaults to ``'bgr'``.
            num_workers (int): Processes that read images. Defaults to 0: this one.

        Returns:
            list[Tensor] | list[dict[str, Tensor]]: One for each image, in their order, on the CPU,
            float32: (C, ) or, of a map, (C, h, w); by branch, if the model has branches and none was
            chosen.

        Raises:
            BadImageError: If an image cannot be read; it is named.
            ConfigError: If an option has another value, or the model has no map.
        """
        if feature not in FEATURES:
            raise ConfigError(f'feature must be {" or ".join(FEATURES)}, but is {feature!r}')
        if feature == 'map':
            from mmmokd.evaluation.networks import check_gives_maps

            check_gives_maps(self.model)
        images = _Images(self._to_list(inputs), self._load, self._rest, channel_order)
        loader = DataLoader(images, batch_size, num_workers=num_workers, collate_fn=default_collate)
        results: list[Features] = []
        for batch in track(loader, 'Features', disable=not show_progress):
            found = self._extract(batch, feature)
            by_image = [
                dict(zip(found, each, strict=True)) for each in zip(*found.values(), strict=True)
            ]
            results += [next(iter(each.values())) if self.single else each for each in by_image]
        return results

    @staticmethod
    def list_images(folder: str | Path) -> list[str]:
        """Find the images below a folder.

        Args:
            folder (str | Path): The folder.

        Returns:
            list[str]: Their paths, sorted.

        Raises:
            FileNotFoundError: If the folder does not exist.
            ValueError: If it has no images.
        """
        from mmmokd.datasets import ImageFolder

        dataset = ImageFolder(data_root=str(folder), lazy_init=True)
        return [info['img_path'] for info in dataset.load_data_list()]

    list_models = staticmethod(list_models)

    def _to_list(self, inputs: Any) -> list:
        if isinstance(inputs, str | Path):
            return self.list_images(inputs) if Path(inputs).expanduser().is_dir() else [inputs]
        if isinstance(inputs, np.ndarray):
            return list(inputs) if inputs.ndim == 4 else [inputs]
        return list(inputs)

    @torch.no_grad()
    def _extract(self, batch: dict, feature: str) -> dict[str, Tensor]:
        """Features of a batch, by branch."""
        from mmmokd.evaluation.batches import read_inputs

        images = read_inputs(self.model, batch)
        found = {name: network.extract(images) for name, network in self.networks.items()}
        if feature == 'pooled':
            return {name: each.pooled.float().cpu() for name, each in found.items()}
        return {
            name: each.tokens.transpose(1, 2).unflatten(2, each.grid).float().cpu()
            for name, each in found.items()
        }


class _Images(Dataset):
    """Dataset of the images in the form that a model takes.

    Args:
        items (list): Paths and arrays.
        load (Callable): Reads a path.
        rest (Callable): Makes of what was read what is collated.
        channel_order (str): Of the arrays.
    """

    def __init__(
        self, items: list, load: Callable[[dict], dict | None], rest: Compose, channel_order: str
    ) -> None:
        from mmmokd.datasets.transforms import LoadImage

        self.items, self.load, self.rest = items, load, rest
        to_rgb = getattr(load, 'to_rgb', False)  # what the pipeline gives of files
        self.convert = LoadImage(channel_order=channel_order, to_rgb=to_rgb)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        item = self.items[index]
        if not isinstance(item, str | Path):
            return self.rest(self.convert(dict(img=item, sample_idx=index)))
        try:
            loaded = self.load(dict(img_path=str(item), sample_idx=index))
        except BadImageError:
            raise
        except Exception as error:  # other libraries' readers raise anything at a broken file
            raise BadImageError(f'cannot read the image {item}: {error}') from error
        if loaded is None:
            raise BadImageError(f'cannot read the image {item}')
        return self.rest(loaded)
