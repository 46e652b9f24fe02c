# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import shutil
from collections.abc import Iterator

import mmcv.cnn
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.utils import apply_to
from torch import Tensor, nn

from mmmokd.models.selfsup import BaseByBranch
from mmmokd.models.utils import OneDNNLinear, StepGraph, onednn
from mmmokd.registry import HOOKS
from mmmokd.utils import get_ori_model
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.state_dict import name_some

from ..optimizers import BranchOptimWrapperDict
from ..optimizers.wrappers import accumulative_counts, iter_wrappers

# Graphs of one function: each block of a CNN has shapes of its own, for views of two sizes, with
# gradients and without.
RECOMPILE_LIMIT = 256
LINEAR = (nn.Linear, mmcv.cnn.Linear)  # and no others, which may compute something else


@HOOKS.register_module()
class AccelerationHook(Hook):
    """Switches on what makes a model faster without changing what it computes.

    Results differ by rounding only. Checkpoints are as without: contiguous, of the same names.

    Args:
        channels_last (bool): Whether weights and feature maps of convolutions have their channels
            last in memory, for which fast kernels are made. Defaults to True.
        onednn (bool): Whether, on a CPU of AMD, linear layers multiply by oneDNN in float32, see
            :class:`~mmmokd.models.utils.OneDNNLinear`. No effect elsewhere. Defaults to True.
        compile (bool | dict): Whether ``torch.compile`` compiles backbones and necks in training, or
            its arguments, such as ``dict(mode='reduce-overhead')`` for CUDA graphs. The first steps
            then take minutes; later runs find what was compiled in PyTorch's cache. It needs a C
            compiler. Validation is not compiled. Defaults to False.
        cuda_graphs (bool): Whether, on one GPU, the forward and backward passes of a step run as a CUDA
            graph: of small models the device then no longer waits for the host. See
            :class:`~mmmokd.models.utils.StepGraph`. Without effect, and the log says why, with
            several processes or accumulated gradients, and for algorithms and loss heads that cannot
            be captured. Defaults to True.

    Raises:
        ConfigError: When training begins, if there is no C compiler.
    """

    # After the hooks that try the model with other inputs.
    priority = 'LOW'

    def __init__(
        self,
        channels_last: bool = True,
        onednn: bool = True,
        compile: bool | dict = False,
        cuda_graphs: bool = True,
    ) -> None:
        self.channels_last = channels_last
        self.onednn = onednn
        self._replaced: list[tuple[nn.Linear, type[nn.Linear]]] = []
        self.compile = dict(compile) if isinstance(compile, dict) else {} if compile else None
        self.cuda_graphs = cuda_graphs

    def before_train(self, runner) -> None:
        """Convert the weights, and let the compiler have its modules.

        Raises:
            ConfigError: If there is no C compiler.
        """
        model = get_ori_model(runner.model)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
            for _, wrapper in iter_wrappers(runner.optim_wrapper):
                _match_state(wrapper.optimizer)
        if self.onednn and onednn.is_faster() and not next(model.parameters()).is_cuda:
            self._replaced = [(m, type(m)) for m in model.modules() if type(m) in LINEAR]
            for module, _ in self._replaced:
                module.__class__ = OneDNNLinear
        if self.compile is not None:
            self._compile(runner, model)
        if self.cuda_graphs and next(model.parameters()).is_cuda:
            if (reason := _why_not_captured(runner.model, runner.optim_wrapper)) is None:
                model.step_graph = StepGraph(model)
            else:
                runner.logger.info(f'AccelerationHook: steps are not CUDA graphs: {reason}.')

    def after_train(self, runner) -> None:
        """Give linear layers their class again, and graphs' memory back."""
        if getattr(get_ori_model(runner.model), 'step_graph', None) is not None:
            get_ori_model(runner.model).step_graph = None
        for module, cls in self._replaced:
            module.__class__ = cls
        self._replaced.clear()

    def _compile(self, runner, model: nn.Module) -> None:
        backend = self.compile.get('backend', 'inductor')
        if backend == 'inductor' and not any(map(shutil.which, ('cc', 'gcc', 'clang'))):
            raise ConfigError(
                'default_hooks.acceleration.compile needs a C compiler (gcc or clang), but none was '
                'found on the PATH: install one, or set compile=False'
            )
        torch._dynamo.config.recompile_limit = max(
            torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT
        )
        modules = list(compiled_modules(model))
        for module in modules:
            module.compile(**{'dynamic': False, **self.compile})
        runner.logger.info(
            f'torch.compile compiles {len(modules)} modules in the first steps; this takes minutes, '
            'or seconds where they are in its cache.'
        )

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Tell the compiler's CUDA graphs that outputs of the last step are no longer read."""
        if self.compile is not None:
            torch.compiler.cudagraph_mark_step_begin()

    def before_val(self, runner) -> None:
        """Validate without the compiler: batches have other sizes."""
        if self.compile is not None:
            torch.compiler.set_stance('force_eager')

    def after_val(self, runner) -> None:
        """Train with the compiler again."""
        if self.compile is not None:
            torch.compiler.set_stance('default')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Write contiguous tensors, which every reader takes."""
        for key in ('state_dict', 'optimizer'):
            if key in checkpoint:
                checkpoint[key] = apply_to(
                    checkpoint[key], lambda x: isinstance(x, Tensor), Tensor.contiguous
                )


def _why_not_captured(model: nn.Module, optim_wrapper: OptimWrapper) -> str | None:
    """Say why the steps of a run cannot be CUDA graphs; None if they can."""
    if model is not get_ori_model(model):
        return f'the model is wrapped in {type(model).__name__}'
    if not isinstance(model, BaseByBranch) or not model.trains_by_branch(optim_wrapper):
        return f'{type(model).__name__} does not train one branch after the other'
    if not isinstance(optim_wrapper, BranchOptimWrapperDict):
        return (
            f'the optimizers are in a {type(optim_wrapper).__name__}, not a BranchOptimWrapperDict'
        )
    if accumulative_counts(optim_wrapper) > 1:
        return 'gradients are accumulated'
    heads = model.heads_by_name()
    names = [f'{name}.{term}' for name, term, _, head in heads if not head.capturable]
    if names:
        return f'loss heads cannot be captured ({name_some(list(dict.fromkeys(names)))})'
    return None


def compiled_modules(model: nn.Module) -> Iterator[nn.Module]:
    """List what is compiled: the blocks of backbones and necks.

    Blocks of one kind share what is compiled, so this takes far less time than whole networks, of
    which each would have to be compiled for each size of the views.

    Args:
        model (nn.Module): The model, not wrapped; an algorithm with branches or not.

    Yields:
        nn.Module: Modules of lists with several of their class; a network without such as a whole.
    """
    networks = [model]
    if isinstance(getattr(model, 'branches', None), nn.ModuleDict):
        networks = [
            network
            for branch in model.branches.values()
            for network in (branch.student, branch.teacher)
            if network is not None
        ]
    seen: set[nn.Module] = set()
    for network in networks:
        names = ('backbone', *getattr(network, 'neck_names', ('neck',)))
        for module in (getattr(network, name, None) for name in names):
            if (
                isinstance(module, nn.Module) and module not in seen
            ):  # student and teacher may share
                seen.add(module)
                yield from list(_blocks(module)) or [module]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Children of lists that have children themselves and another of their class beside them."""
    for child in module.children():
        classes = [type(each) for each in module.children()]
        in_list = isinstance(module, nn.Sequential | nn.ModuleList)
        if in_list and classes.count(type(child)) > 1 and next(child.children(), None) is not None:
            yield child
        else:
            yield from _blocks(child)


def _match_state(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded states the strides of their parameters, for which fused updates are made."""
    for param, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == param.shape and value.dim() == 4:
                state[key] = value.contiguous(memory_format=torch.channels_last)
