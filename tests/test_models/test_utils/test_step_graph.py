# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mokd_testing import AfterStep, copy_of, random_views, train

from mmmokd.models.utils import StepGraph, capturable, step_graph, when_computed


@pytest.fixture
def captures(monkeypatch):
    """Stands for the captures, of which a CPU makes none; those that were made, in their order."""
    made = []

    class Captured:
        def __init__(self, step, inputs, model, pool):
            self.step, self.pool = step, pool
            made.append(self)

        def replay(self, inputs):
            return self.step(inputs)

    monkeypatch.setattr(step_graph, '_Captured', Captured)
    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', object)
    return made


def test_which_steps_are_captured(build_mokd, captures):
    model = build_mokd()
    graph = StepGraph(model, warm_up=2)
    views, smaller = random_views(2), random_views(1)

    def run(inputs=views):
        found = graph(lambda views: dict(loss=views[0].sum()), inputs)
        return found and found['loss'], len(captures)

    assert [run(), run()] == [(None, 0)] * 2
    assert [run(), run()] == [(views[0].sum(), 1)] * 2
    assert run(smaller) == (smaller[0].sum(), 2)
    assert run()[1] == 2  # that of the first shape is kept
    neck = model.branches['vit'].teacher.projector
    handle = neck.register_forward_hook(lambda module, args, output: None)
    assert run() == (None, 2)
    handle.remove()
    for _ in range(2):  # hooks of later steps do the same as those that were captured
        handle = neck.register_forward_hook(capturable(lambda module, args, output: None))
        assert run()[1] == 3
        handle.remove()
    assert run()[1] == 3
    for _, _, _, head in model.heads_by_name():
        head.set_epoch(5)  # another temperature
    assert [run()[1], run()[1], run(smaller)[1]] == [4, 4, 5]
    first, other = captures[0].pool, captures[3].pool  # a pool is gone with the last of its graphs
    assert [each.pool for each in captures] == [first] * 3 + [other] * 2 and first is not other
    for size in range(3, 3 + graph.MAX_GRAPHS):
        run(random_views(size))
    assert run()[1] == 5 + graph.MAX_GRAPHS + 1  # the oldest is gone


def test_when_computed(monkeypatch):
    calls = []
    when_computed(lambda: calls.append(1))
    assert calls == [1]
    later = []
    monkeypatch.setattr(step_graph, '_after_replay', later)
    when_computed(lambda: calls.append(2))
    assert calls == [1] and len(later) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('optim', [{}, dict(type='AmpOptimWrapper', dtype='float16')])
def test_graphs_train_alike(runner_cfg, optim):
    """Over changing temperatures, checks for collapse, batches of two sizes, and frozen prototypes.

    Not to the bit: on a GPU two runs differ, as the gradients of resized position embeddings are added
    up in any order.
    """
    found = []
    for captured in (False, True):
        signals = []
        cfg = runner_cfg(str(captured), length=9, batch_size=2, max_epochs=4, optim=optim)
        cfg.train_dataloader.drop_last = False
        cfg.default_hooks.acceleration = dict(type='mmmokd.AccelerationHook', cuda_graphs=captured)
        cfg.default_hooks.collapse_monitor = dict(type='mmmokd.CollapseMonitorHook', interval=2)

        def keep(runner, signals=signals):
            hub = runner.message_hub
            keys = sorted(key for key in hub.log_scalars if key.startswith('train/'))
            signals.append(
                {key: hub.get_scalar(key).current() for key in keys if 'time' not in key}
            )
            graph = runner.model.step_graph
            signals[-1]['graphs'] = len(graph._graphs) if graph else None

        runner = train(cfg, AfterStep(keep))
        graphs = [step.pop('graphs') for step in signals]
        assert (max(graphs) > 1) if captured else set(graphs) == {None}
        assert runner.model.step_graph is None
        found.append((signals, copy_of(runner.model.state_dict())))
    (signals, state), (others, other_state) = found
    for step, other in zip(signals, others, strict=True):
        assert step == pytest.approx(other, rel=1e-2 if optim else 1e-3, abs=1e-3)
    for key, value in state.items():
        torch.testing.assert_close(other_state[key], value, rtol=1e-2, atol=1e-3, msg=key)
