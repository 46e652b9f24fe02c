# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from .evaluation_plot import plot_evaluation
from .training_plot import RunScalars, plot_training, read_scalars

__all__ = ['RunScalars', 'plot_evaluation', 'plot_training', 'read_scalars']
