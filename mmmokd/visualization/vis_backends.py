# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""mmengine's loggers to Weights & Biases and to MLflow, mended where today's versions need it."""

import importlib
from types import ModuleType
from typing import Any

import mmengine.visualization as mmengine_visualization
import numpy as np
from mmengine.config import Config

from mmmokd.registry import VISBACKENDS
from mmmokd.utils.errors import ConfigError


def _import_logger(package: str) -> ModuleType:
    """Import the package of a logger; say how to get it where it does not exist."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f'the config logs to {package}, which cannot be imported ({error}): '
            f'bash tools/setup_env.sh loggers, or pip install {package}'
        ) from error


@VISBACKENDS.register_module()
class WandbVisBackend(mmengine_visualization.WandbVisBackend):
    """Scalars, config and images of a run in Weights & Biases.

    Unlike mmengine's it draws curves over the iteration, where that counts its own calls, and it
    uploads no source code: that takes every Python file below the working folder, which in a
    checkout include those of the virtual environment.

    Args:
        save_dir (str): Folder of the local files. The visualizer gives it.
        init_kwargs (dict, optional): Arguments of ``wandb.init``, for example
            ``dict(project='mokd')``. Defaults to None.
        define_metric_cfg (dict | list[dict], optional): Arguments of ``wandb.define_metric``, or a
            summary by the name of a metric. Defaults to None: every curve over ``iter``.
        commit (bool): Whether every call adds a step. Defaults to True.
        watch_kwargs (dict, optional): Arguments of ``wandb.watch``. Defaults to None.

    Raises:
        ValueError: As the run begins, if wandb is not installed or does not start, as without a
            login.
    """

    def __init__(
        self,
        save_dir: str,
        init_kwargs: dict | None = None,
        define_metric_cfg: dict | list[dict] | None = None,
        commit: bool = True,
        watch_kwargs: dict | None = None,
    ) -> None:
        if define_metric_cfg is None:
            define_metric_cfg = [dict(name='iter'), dict(name='*', step_metric='iter')]
        super().__init__(
            save_dir, init_kwargs, define_metric_cfg, commit=commit, watch_kwargs=watch_kwargs
        )

    def _init_env(self) -> None:
        wandb = _import_logger('wandb')
        try:
            super()._init_env()
        except wandb.Error as error:
            raise ConfigError(
                f'Weights & Biases did not start: {error} '
                '(wandb login once, or WANDB_MODE=offline to keep the run on this machine)'
            ) from error

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config.

        Args:
            config (Config): The config.
        """
        wandb = self.experiment
        wandb.config.update(
            config.to_dict(), allow_val_change=self._init_kwargs.get('allow_val_change', False)
        )


@VISBACKENDS.register_module()
class MLflowVisBackend(mmengine_visualization.MLflowVisBackend):
    """Scalars, config, images and log files of a run in MLflow.

    Takes the arguments of mmengine's. Unlike that it writes, without a ``tracking_uri``, where
    MLflow itself would: what ``MLFLOW_TRACKING_URI`` names, else ``mlflow.db`` in the working folder
    (the folder of plain files that mmengine takes is refused by today's MLflow). Images keep
    their step, and their names need no ending.

    Raises:
        ValueError: As the run begins, if mlflow is not installed or does not reach its store.
    """

    def _init_env(self) -> None:
        mlflow = _import_logger('mlflow')
        self._tracking_uri = self._tracking_uri or mlflow.get_tracking_uri()
        try:
            super()._init_env()
        except mlflow.MlflowException as error:
            raise ConfigError(
                f'MLflow does not work with tracking_uri {self._tracking_uri}: {error}'
            ) from error

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record an image.

        Args:
            name (str): Its name.
            image (np.ndarray): RGB, uint8, shape (H, W, 3).
            step (int): Where in the run it belongs. Defaults to 0.
        """
        self.experiment.log_image(image, key=name, step=step)
