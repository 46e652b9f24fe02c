# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os.path as osp
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

import torch
from mmengine.logging import MMLogger
from mmpretrain.datasets import CustomDataset

from mmmokd.datasets.folders import (
    Found,
    check_folder,
    expand_path,
    find_files,
    join_paths,
    split_roots,
)
from mmmokd.datasets.remote import is_remote
from mmmokd.datasets.transforms.files import has_plugin, how_to_read, read_file
from mmmokd.datasets.walk import require_readable_images
from mmmokd.datasets.worker_generator import WorkerGenerator
from mmmokd.registry import DATASETS
from mmmokd.utils.errors import ConfigError, DataError, MissingFileError
from mmmokd.utils.names import printable
from mmmokd.utils.state_dict import name_some

IMAGE_EXTENSIONS = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.tif', '.tiff', '.bmp', '.gif'),
    *('.ppm', '.pgm', '.pnm', '.jp2'),
)
# These as well, where Pillow can read them; see LoadImage.
MORE_EXTENSIONS = ('.avif', '.heic', '.heif', '.hif', '.jxl')
# Names of the parts of a dataset, which make poor classes.
SPLITS = {
    *('train', 'training', 'val', 'valid', 'validation', 'test', 'testing', 'dev', 'eval'),
    *('trainval', 'unlabeled', 'unlabelled'),  # check-words: off
}
# So many listed paths, spread evenly, are looked up before training; all would take minutes.
NUM_PROBED = 100
NUM_ENDINGS = 5
NUM_CLASSES_NAMED = 5


@DATASETS.register_module()
class ImageFolder(CustomDataset):
    """A folder of images: nested or not, with or without class folders, no annotation file.

    ``dict(type='mmmokd.ImageFolder', data_root='/my/images', pipeline=...)`` is enough. Hidden
    files and folders are skipped, so is what training and evaluation wrote (``work_dirs``, folders
    of runs and results), linked folders are followed, and the order is by path. How many images
    were found is logged, with the endings of files that are not taken for images, and number and
    first names of classes.

    Args:
        data_root (str | Sequence[str]): The folder, or several, as a list or in one text with
            commas between them; '~' and environment variables are expanded. Several with classes
            have the classes of all of them, by name. A remote folder (``s3://bucket/folder``,
            ``gs://``, ``hf://``, ...) is read by fsspec. Defaults to ''.
        data_prefix (str | dict): A folder inside each. Defaults to ''.
        ann_file (str): A list file, one path a line (followed by a space and a class number if
            ``with_label``), relative to the folder or absolute; in ``data_root`` if the name is
            relative. Empty lines are skipped. Not with several folders. Defaults to '', every
            image in the folder.
        with_label (bool): Whether every folder right under the root is a class (as in k-NN
            evaluation). Defaults to False.
        extensions (Sequence[str], optional): File name endings of images, in any case. Defaults
            to None: those of jpeg, png, webp, tiff, bmp, gif, netpbm and jpeg 2000; of avif, heic
            and jxl where Pillow can read them.
        max_images (int, optional): At most so many are taken, spread evenly over all in their
            order, so that each class folder keeps its share. (``indices=N`` takes the first N.)
            Defaults to None, all.
        **kwargs: Further arguments of :class:`mmpretrain.datasets.CustomDataset`.

    Raises:
        MissingFileError: If the folder or the list file does not exist, or no listed path is.
        NotADirectoryError: If ``data_root`` is a file.
        DataError: If there is no image, no folder is given or one twice, a remote one cannot be
            listed, or there are no class folders for ``with_label``.
        ConfigError: If ``max_images`` is not a number of images.
    """

    def __init__(
        self,
        data_root: str | Sequence[str] = '',
        data_prefix: str | dict = '',
        ann_file: str = '',
        with_label: bool = False,
        extensions: Sequence[str] | None = None,
        max_images: int | None = None,
        metainfo: dict | None = None,
        lazy_init: bool = False,
        **kwargs,
    ) -> None:
        if not (data_root or data_prefix or ann_file):
            raise ConfigError('ImageFolder needs data_root, the folder of images.')
        if extensions is None:
            extensions = (*IMAGE_EXTENSIONS, *filter(has_plugin, MORE_EXTENSIONS))
        if isinstance(extensions, str) or not extensions:
            raise ConfigError(f"extensions must be a list such as ['.jpg'], got {extensions!r}.")
        if max_images is not None and (not isinstance(max_images, int) or max_images < 1):
            raise ConfigError(
                f'max_images must be a number of images, at least 1, not {max_images!r}.'
            )
        self.max_images = max_images
        roots = split_roots(data_root)
        if len(roots) > 1 and ann_file:
            raise DataError(
                f'ann_file={ann_file!r} names images relative to one folder, but data_root names '
                f'{len(roots)}: use a ImageFolder for each, in a ConcatDataset.'
            )
        self.generator = WorkerGenerator()
        self._roots = roots
        super().__init__(
            data_root=roots[0] if roots else '',
            data_prefix=data_prefix,
            ann_file=ann_file,
            with_label=with_label,
            extensions=extensions,
            metainfo=metainfo,
            lazy_init=True,
            **kwargs,
        )
        require_readable_images(self)
        if not lazy_init:
            self.full_init()

    @property
    def folders(self) -> list[str]:
        """List[str]: The folders whose images these are."""
        if len(self._roots) < 2:
            return [self.img_prefix]
        return [join_paths(root, self._prefix) for root in self._roots]

    def _join_prefix(self) -> None:
        # As mmengine does it, of whose file backends none may know where a remote folder is.
        self._prefix = expand_path(self.data_prefix['img_path'])
        self.data_prefix['img_path'] = join_paths(self.data_root, self._prefix)
        if self.ann_file:
            self.ann_file = join_paths(self.data_root, expand_path(self.ann_file))

    def set_epoch(self, epoch: int, stream: int | None = None) -> None:
        """Start new random numbers for what takes the place of unreadable images.

        Args:
            epoch (int): Number of the epoch, counted from 0.
            stream (int, optional): Sets apart several datasets of one run. Defaults to None.
        """
        self.generator.set_epoch(epoch, stream)

    def load_data_list(self) -> list[dict]:
        """Find the images.

        Returns:
            List[dict]: With 'img_path' (str) and, if ``with_label``, 'gt_label' (int).
        """
        if self.ann_file:
            found = {self.img_prefix: self._read_list()}
        else:
            found = self._find_samples()
        infos = []
        for folder, samples in found.items():
            for sample in samples:
                path, *label = sample if self.with_label else (sample,)
                info = dict(img_path=join_paths(folder, path))
                infos.append(dict(info, gt_label=label[0]) if label else info)
        if self.max_images is None or self.max_images >= len(infos):
            return infos
        MMLogger.get_current_instance().info(
            f'{self.max_images} of {len(infos)} images are taken, spread evenly (max_images).'
        )
        return [infos[i * len(infos) // self.max_images] for i in range(self.max_images)]

    def _find_samples(self) -> dict[str, list]:
        """Images, with their labels if wanted, by the folder that they are relative to."""
        found = {}
        for folder in self.folders:
            if not is_remote(folder):
                check_folder(folder, self.extensions)
            found[folder] = find_files(folder)
        images = {
            folder: [path for path in files if self.is_valid_file(path)]
            for folder, (files, *_) in found.items()
        }
        if not any(images.values()):
            self._raise_no_image([path for each in found.values() for path in each.files])
        for folder, each in found.items():
            left_out = sorted(set(each.files) - set(images[folder]))
            self._log_found(folder, len(images[folder]), left_out, each.own)
        return self._label_by_folder(images, found) if self.with_label else images

    def _raise_no_image(self, files: list[str]) -> NoReturn:
        held = f'it holds {len(files)} files ({_count_endings(files)})'
        raise DataError(
            f'No image in the folder {" or ".join(map(_show_folder, self.folders))}: '
            + (held if files else 'it is empty')
            + f'; images end in {", ".join(sorted(self.extensions))}.'
            + _hints(files)
        )

    def _log_found(self, folder: str, num_images: int, left_out: list[str], own: list[str]) -> None:
        """Say how many images there are, and which files are not taken for images."""
        logger = MMLogger.get_current_instance()
        found = f'{num_images} images in {_show_folder(folder)}'
        if own:
            logger.info(
                f'{_show_folder(folder)}: what training and evaluation wrote is left out: '
                + name_some([*map(printable, own)])
            )
        if left_out:
            logger.warning(
                f'{found}; other files are left out: {len(left_out)} ({_count_endings(left_out)}).'
                + (
                    _hints(left_out)
                    or ' Convert the images among them, to jpg or png for instance.'
                )
            )
        elif not num_images:
            logger.warning(f'{found}: it is empty')
        else:
            logger.info(found)

    def _label_by_folder(
        self, images: dict[str, list[str]], found: dict[str, Found]
    ) -> dict[str, list[tuple[str, int]]]:
        root = ' or '.join(map(_show_folder, self.folders))
        in_folders = {
            folder: [path for path in paths if '/' in path] for folder, paths in images.items()
        }
        total = sum(map(len, images.values()))
        labeled = sum(map(len, in_folders.values()))
        if not labeled:
            raise DataError(
                f'with_label=True needs a folder for each class in {root}, but its '
                f'{total} images lie in the folder itself.'
            )
        # A folder without an image is a class too, or numbers would shift.
        classes = sorted({name for each in found.values() for name in each.folders})
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(classes)
        elif len(self.CLASSES) != len(classes):
            raise DataError(
                f'{len(self.CLASSES)} classes are given, but {root} has {len(classes)} folders.'
            )
        self.folder_to_idx = {name: index for index, name in enumerate(classes)}
        samples = {
            folder: [(path, self.folder_to_idx[path.split('/', 1)[0]]) for path in paths]
            for folder, paths in in_folders.items()
        }
        _log_classes(root, classes)
        self._warn_of_left_out(total - labeled, len(classes), sum(samples.values(), []))
        return samples

    @staticmethod
    def _warn_of_left_out(num_outside: int, num_classes: int, samples: list) -> None:
        logger = MMLogger.get_current_instance()
        if num_outside:
            logger.warning(f'{num_outside} images in no class folder are left out.')
        num_empty = num_classes - len({label for _, label in samples})
        if num_empty:
            logger.warning(f'{num_empty} of {num_classes} class folders hold no image.')

    def _read_list(self) -> list:
        if not is_remote(self.ann_file):
            path = osp.abspath(self.ann_file)
            if not osp.isfile(path):
                raise MissingFileError(f'The list file (ann_file), {path}, does not exist.')
        # As list_from_file of mmengine; names that are not UTF-8 are kept as the file system has them.
        text = read_file(self.ann_file).decode('utf-8', 'surrogateescape')
        lines = [line.strip('\ufeff \t\r') for line in text.split('\n')]
        samples = [line for line in lines if line]
        if not samples:
            raise DataError(f'The list file {self.ann_file} names no image.')
        if self.with_label:
            samples = [self._split_label(line) for line in samples]
        self._probe([sample[0] for sample in samples] if self.with_label else samples)
        return samples

    def _split_label(self, line: str) -> tuple[str, int]:
        path, _, label = line.rpartition(' ')
        if not path or not label.isdecimal():
            raise DataError(
                f'with_label=True needs lines of a path, a space and a class number in '
                f'{self.ann_file}, but one is: {line}'
            )
        return path.strip(), int(label)

    def _probe(self, paths: list[str]) -> None:
        """Raise if the list and the folder do not fit; single missing files are for training."""
        if is_remote(self.img_prefix):
            return
        paths = [path for path in paths if not is_remote(path)]
        if not paths:
            return
        probed = paths[:: -(-len(paths) // NUM_PROBED)]
        full = [osp.abspath(osp.join(self.img_prefix, path)) for path in probed]
        if not any(map(osp.isfile, full)):
            raise MissingFileError(
                f'None of {len(full)} paths tried of the {len(paths)} in the list file '
                f'{self.ann_file} exists: {", ".join(full[:3])}. They are taken relative to '
                'data_root joined with data_prefix.'
            )

    def _rand_another(self) -> int:
        # mmengine draws from numpy's global generator, which repeats itself in every epoch.
        return torch.randint(len(self), (), generator=self.generator.get()).item()


def _count_endings(paths: list[str]) -> str:
    """The commonest endings of files, as '3 x .heic, 1 x no ending'."""
    endings = Counter(osp.splitext(path)[1].lower() or 'no ending' for path in paths)
    named = [f'{count} x {ending}' for ending, count in endings.most_common(NUM_ENDINGS)]
    return ', '.join(named + ['...'] * (len(endings) > NUM_ENDINGS))


def _hints(paths: list[str]) -> str:
    """Give advice on files that are images of a kind that is not read, with a blank before it."""
    endings = sorted({osp.splitext(path)[1].lower() for path in paths})
    hints = dict.fromkeys(filter(None, map(how_to_read, endings)))
    return ''.join(f' {hint[0].upper()}{hint[1:]}.' for hint in hints)


def _show_folder(folder: str) -> str:
    return folder if is_remote(folder) else printable(osp.abspath(folder))


def _log_classes(root: str, classes: list[str]) -> None:
    """Say which classes there are, and if they are rather the parts of a dataset."""
    logger = MMLogger.get_current_instance()
    logger.info(
        f'{len(classes)} classes in {root}: {name_some([*map(printable, classes)], NUM_CLASSES_NAMED)}'
    )
    splits = [name for name in classes if name.lower() in SPLITS]
    if len(splits) > 1 or len(splits) == len(classes):
        logger.warning(
            f'The folders {", ".join(splits)} in {root} are used as classes, but have the names of '
            'the parts of a dataset. If they are such, name one of them, with a folder for each class '
            f'in it: {osp.join(root, splits[0])}'
        )
