# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .evaluation_plot import plot_evaluation
from .locality_plot import plot_locality
from .training_plot import RunScalars, plot_training, read_scalars
from .vis_backends import MLflowVisBackend, WandbVisBackend

__all__ = [
    'MLflowVisBackend',
    'RunScalars',
    'WandbVisBackend',
    'plot_evaluation',
    'plot_locality',
    'plot_training',
    'read_scalars',
]
