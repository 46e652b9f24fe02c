# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from mmengine.fileio import LocalBackend, get_file_backend, list_from_file
from mmengine.logging import MMLogger
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.base_dataset import expanduser

from mmmokd.registry import DATASETS

from .transforms.loading import LoadPicture
from .walk import iter_transforms
from .worker_generator import WorkerGenerator

PICTURE_EXTENSIONS = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.tif', '.tiff', '.bmp', '.gif'),
    *('.ppm', '.pgm', '.pnm', '.jp2', '.avif'),
)
# So many listed paths, spread evenly, are looked up before training; all would take minutes.
NUM_PROBED = 100
NUM_ENDINGS = 5


@DATASETS.register_module()
class PictureFolder(CustomDataset):
    """A folder of pictures: nested or not, with or without class folders, no annotation file.

    ``dict(type='mmmokd.PictureFolder', data_root='/my/pictures', pipeline=...)`` is enough. Hidden
    files and folders are skipped, linked folders are followed, and the order is by path. How many
    pictures were found is logged, with the endings of files that are not taken for pictures.

    Args:
        data_root (str): The folder; '~' is expanded. Defaults to ''.
        data_prefix (str | dict): A folder inside it. Defaults to ''.
        ann_file (str): A list file, one path a line (followed by a space and a class number if
            ``with_label``), relative to the folder or absolute; in ``data_root`` if the name is
            relative. Empty lines are skipped. Defaults to '', every picture in the folder.
        with_label (bool): Whether every folder right under the root is a class (as in k-NN
            evaluation). Defaults to False.
        extensions (Sequence[str]): File name endings of pictures, in any case. Defaults to those
            of jpeg, png, webp, tiff, bmp, gif, netpbm, jpeg 2000 and avif.
        **kwargs: Further arguments of :class:`mmpretrain.datasets.CustomDataset`.

    Raises:
        FileNotFoundError: If the folder or the list file is not there, or no listed path is.
        NotADirectoryError: If ``data_root`` is a file.
        ValueError: If there is no picture, no folder is given, or there are no class folders for
            ``with_label``.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: str | dict = '',
        ann_file: str = '',
        with_label: bool = False,
        extensions: Sequence[str] = PICTURE_EXTENSIONS,
        metainfo: dict | None = None,
        lazy_init: bool = False,
        **kwargs,
    ) -> None:
        if not (data_root or data_prefix or ann_file):
            raise ValueError('PictureFolder needs data_root, the folder of pictures.')
        if isinstance(extensions, str) or not extensions:
            raise ValueError(f"extensions must be a list such as ['.jpg'], got {extensions!r}.")
        self.generator = WorkerGenerator()
        super().__init__(
            data_root=expanduser(data_root),
            data_prefix=data_prefix,
            ann_file=ann_file,
            with_label=with_label,
            extensions=extensions,
            metainfo=metainfo,
            lazy_init=True,
            **kwargs,
        )
        if self.test_mode:
            for transform in iter_transforms(self):
                if isinstance(transform, LoadPicture):
                    transform.skip_bad = False
        if not lazy_init:
            self.full_init()

    @property
    def is_local(self) -> bool:
        """bool: Whether the pictures are on a file system, not in a remote storage."""
        return isinstance(get_file_backend(self.img_prefix or '.'), LocalBackend)

    def set_epoch(self, epoch: int, stream: int | None = None) -> None:
        """Start new random numbers for what takes the place of unreadable pictures.

        Args:
            epoch (int): Number of the epoch, counted from 0.
            stream (int, optional): Sets apart several datasets of one run. Defaults to None.
        """
        self.generator.set_epoch(epoch, stream)

    def load_data_list(self) -> list[dict]:
        """Find the pictures.

        Returns:
            List[dict]: With 'img_path' (str) and, if ``with_label``, 'gt_label' (int).
        """
        samples = self._read_list() if self.ann_file else self._find_samples()
        join = get_file_backend(self.img_prefix or '.', enable_singleton=True).join_path
        if self.with_label:
            return [
                dict(img_path=join(self.img_prefix, path), gt_label=label)
                for path, label in samples
            ]
        return [dict(img_path=join(self.img_prefix, path)) for path in samples]

    def _find_samples(self) -> list:
        if self.is_local:
            self._check_folder()
            files = list(_walk_folder(self.img_prefix))
        else:
            backend = get_file_backend(self.img_prefix, enable_singleton=True)
            files = list(backend.list_dir_or_file(self.img_prefix, list_dir=False, recursive=True))
        pictures, others = [], []
        for path in files:
            (pictures if self.is_valid_file(path) else others).append(path)
        pictures.sort()
        if not pictures:
            self._raise_no_picture(others)
        self._log_found(len(pictures), others)
        return self._label_by_folder(pictures) if self.with_label else pictures

    def _check_folder(self) -> None:
        folder = osp.abspath(self.img_prefix)
        if osp.isfile(folder):
            raise NotADirectoryError(
                f'The folder of pictures, {folder}, is a file. Set data_root to a folder; a list '
                'of pictures goes into ann_file.'
            )
        if not osp.isdir(folder):
            raise FileNotFoundError(f'The folder of pictures, {folder}, is not there.')

    def _raise_no_picture(self, files: list[str]) -> NoReturn:
        held = f'it holds {len(files)} files ({_count_endings(files)})'
        raise ValueError(
            f'No picture in the folder {self._folder_name()}: '
            + (held if files else 'it is empty')
            + f'; pictures end in {", ".join(sorted(self.extensions))}.'
        )

    def _log_found(self, num_pictures: int, left_out: list[str]) -> None:
        """Say how many pictures there are, and which files are not taken for pictures."""
        logger = MMLogger.get_current_instance()
        found = f'{num_pictures} pictures in {self._folder_name()}'
        if left_out:
            logger.warning(
                f'{found}; other files are left out: {len(left_out)} ({_count_endings(left_out)}). '
                'Convert the pictures among them, to jpg or png for instance.'
            )
        else:
            logger.info(found)

    def _folder_name(self) -> str:
        return osp.abspath(self.img_prefix) if self.is_local else self.img_prefix

    def _label_by_folder(self, pictures: list[str]) -> list[tuple[str, int]]:
        in_folders = [path for path in pictures if '/' in path]
        root = osp.abspath(self.img_prefix)
        if not in_folders:
            raise ValueError(
                f'with_label=True needs a folder for each class in {root}, but its '
                f'{len(pictures)} pictures lie in the folder itself.'
            )
        if self.is_local:  # a folder without a picture is a class too, or numbers would shift
            folders = {entry.name for entry in os.scandir(root) if entry.is_dir()}
            classes = sorted(name for name in folders if not name.startswith('.'))
        else:
            classes = sorted({path.split('/', 1)[0] for path in in_folders})
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(classes)
        elif len(self.CLASSES) != len(classes):
            raise ValueError(
                f'{len(self.CLASSES)} classes are given, but {root} has {len(classes)} folders.'
            )
        self.folder_to_idx = {name: index for index, name in enumerate(classes)}
        samples = [(path, self.folder_to_idx[path.split('/', 1)[0]]) for path in in_folders]
        self._warn_of_left_out(len(pictures) - len(in_folders), len(classes), samples)
        return samples

    @staticmethod
    def _warn_of_left_out(num_outside: int, num_classes: int, samples: list) -> None:
        logger = MMLogger.get_current_instance()
        if num_outside:
            logger.warning(f'{num_outside} pictures in no class folder are left out.')
        num_empty = num_classes - len({label for _, label in samples})
        if num_empty:
            logger.warning(f'{num_empty} of {num_classes} class folders hold no picture.')

    def _read_list(self) -> list:
        if isinstance(get_file_backend(self.ann_file), LocalBackend):
            path = osp.abspath(self.ann_file)
            if not osp.isfile(path):
                raise FileNotFoundError(f'The list file (ann_file), {path}, is not there.')
        lines = [line.strip('\ufeff \t\r') for line in list_from_file(self.ann_file)]
        samples = [line for line in lines if line]
        if not samples:
            raise ValueError(f'The list file {self.ann_file} names no picture.')
        if self.with_label:
            samples = [self._split_label(line) for line in samples]
        self._probe([sample[0] for sample in samples] if self.with_label else samples)
        return samples

    def _split_label(self, line: str) -> tuple[str, int]:
        path, _, label = line.rpartition(' ')
        if not path or not label.isdecimal():
            raise ValueError(
                f'with_label=True needs lines of a path, a space and a class number in '
                f'{self.ann_file}, but one is: {line}'
            )
        return path.strip(), int(label)

    def _probe(self, paths: list[str]) -> None:
        """Raise if the list and the folder do not fit; single missing files are for training."""
        if not self.is_local:
            return
        probed = paths[:: -(-len(paths) // NUM_PROBED)]
        full = [osp.abspath(osp.join(self.img_prefix, path)) for path in probed]
        if not any(map(osp.isfile, full)):
            raise FileNotFoundError(
                f'None of {len(full)} paths tried of the {len(paths)} in the list file '
                f'{self.ann_file} is there: {", ".join(full[:3])}. They are taken relative to '
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


def _walk_folder(root: str) -> Iterator[str]:
    """All files under a folder, as paths relative to it, without hidden ones.

    Args:
        root (str): The folder.

    Yields:
        str: A path with '/' between its parts. Links are followed, except back to a parent.

    Raises:
        OSError: If a folder cannot be read.
    """

    def visit(folder: str, prefix: str, parents: tuple[str, ...]) -> Iterator[str]:
        real = osp.realpath(folder)
        if real in parents:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith('.'):
                    continue
                if entry.is_dir():
                    yield from visit(entry.path, f'{prefix}{entry.name}/', (*parents, real))
                else:
                    yield prefix + entry.name

    return visit(root, '', ())
