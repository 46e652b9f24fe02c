# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
"""Estimate what the paper's recipe takes on ImageNet, from the time of single steps.

    python tools/benchmarks/imagenet.py [--json FILE] [--batches N ...] [--price P]
    python tools/benchmarks/imagenet.py --from FILE [--page PAGE] [--price P]

Measures whole steps on this machine's GPU, with synthetic data, at several numbers of images, or reads
what was measured. Prints hours, memory and cost of 100 epochs on 1, 8 and 16 GPUs; --page writes them
into a page, between its marks.
"""

__mmmokd_reads_arguments_first__ = True  # see mmmokd/__init__.py

import argparse
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmmokd.cli.run_tool import run_tool
from mmmokd.utils.errors import ConfigError
from mmmokd.utils.table import markdown_table

IMAGES, EPOCHS, BATCH = 1_281_167, 100, 256
GPUS = (1, 8, 16)
BEGIN, END = '<!-- estimate: begin -->', '<!-- estimate: end -->'
HEADER = (
    'GPUs', 'images per GPU', 'ms/step', 'images/s', 'hours', 'GPU-hours', 'cost, USD',
    'memory per GPU, GiB',
)  # fmt: skip


class Step(NamedTuple):
    """A measured step.

    Attributes:
        images (int): Images of the step.
        ms (tuple[float, float]): Fastest and slowest time.
        gib (float): Peak memory.
        graph (bool): Whether it ran as a CUDA graph, as steps on one GPU do.
    """

    images: int
    ms: tuple[float, float]
    gib: float
    graph: bool = False


class Estimate(NamedTuple):
    """Requirements of the recipe on some GPUs.

    Attributes:
        gpus (int): Number of GPUs.
        ms (tuple[float, float]): Bounds of the time of a step of 256 images.
        gib (float): Memory of a GPU, at most.
        images (str): Images of a GPU and step.
    """

    gpus: int
    ms: tuple[float, float]
    gib: float
    images: str

    def cells(self, price: float) -> list[str]:
        """Write a row of the table.

        Args:
            price (float): Of a GPU-hour.

        Returns:
            list[str]: Its cells.
        """
        hours = [IMAGES // BATCH * EPOCHS * ms / 3.6e6 for ms in self.ms]
        rates = [BATCH * 1000 / ms for ms in reversed(self.ms)]
        return [
            str(self.gpus),
            self.images,
            write_range(self.ms),
            write_range(rates),
            write_range(hours),
            write_range([self.gpus * each for each in hours]),
            write_range([self.gpus * each * price for each in hours]),
            f'{self.gib:.1f}',
        ]


def write_range(values: Sequence[float]) -> str:
    """Write a number, or two bounds.

    Args:
        values (Sequence[float]): The bounds.

    Returns:
        str: Such as ``'13.2 to 34.5'``.
    """
    texts = [f'{value:,.1f}' if value < 100 else f'{value:,.0f}' for value in values]
    return ' to '.join(dict.fromkeys(texts))


def estimate(steps: Sequence[Step], gpus: int) -> Estimate:
    """Estimate the step of 256 images on some GPUs.

    Steps of one GPU run as CUDA graphs, those of several do not. Where a GPU's share of the images
    was measured, that is it. A larger share takes the time and the memory of the largest measured one
    times the images. A smaller one takes no more than the smallest measured one above it, and no less
    than its part of that.

    Args:
        steps (Sequence[Step]): What was measured.
        gpus (int): Number of GPUs.

    Returns:
        Estimate: Without the exchange of gradients, validation, and waiting for data.

    Raises:
        ConfigError: If steps of this kind were not measured.
    """
    share, kind = BATCH // gpus, sorted(step for step in steps if step.graph == (gpus == 1))
    if not kind:
        raise ConfigError(f'no step {"with" if gpus == 1 else "without"} CUDA graphs was measured')
    step = next((step for step in kind if step.images >= share), kind[-1])
    part = share / step.images
    low, high = step.ms
    bounds = (part * low, max(part, 1) * high)
    return Estimate(gpus, bounds, max(part, 1) * step.gib, str(share))


def measure(batches: Sequence[int], rounds: int) -> dict[str, Any]:
    """Time whole steps on this machine's GPU.

    Args:
        batches (Sequence[int]): Numbers of images.
        rounds (int): Times that each is measured.

    Returns:
        dict[str, Any]: ``machine``, ``steps``, as CUDA graphs and without, and ``parameters`` that are
        trained, by branch.

    Raises:
        ConfigError: Without a GPU.
    """
    import torch
    from mmengine.logging import MMLogger
    from speed.memory import PeakMemory
    from speed.result import Settings, describe_machine
    from speed.runs import Case, training
    from speed.step import step_case
    from speed.timing import alternate

    if not torch.cuda.is_available():
        raise ConfigError('PyTorch finds no GPU: read what was measured elsewhere, --from FILE')
    MMLogger.get_current_instance().setLevel('ERROR')
    case, steps, parameters = step_case(Settings('cuda')), [], {}
    for images, graph in itertools.product(batches, (True, False)):
        options = {**case.options, 'default_hooks.acceleration.cuda_graphs': graph}
        with training(Case(case.config, options, images).synthetic()) as run:
            with PeakMemory('cuda', total=True) as memory:
                for _ in range(5):
                    run.step()
            times = [
                1000 * alternate(dict(step=run.step), 1, calls=5)['step'] for _ in range(rounds)
            ]
            parameters = {
                name: sum(p.numel() for p in branch.parameters() if p.requires_grad)
                for name, branch in run.runner.model.branches.items()
            }
        ms, gib = [round(min(times), 1), round(max(times), 1)], round(memory.bytes / 2**30, 1)
        steps.append(dict(images=images, ms=ms, gib=gib, graph=graph))
        kind = 'as a CUDA graph' if graph else 'without'
        print(f'{images} images, {kind}: {write_range(ms)} ms, {gib} GiB', flush=True)
    return dict(machine=describe_machine(), steps=steps, parameters=parameters)


def describe(found: dict[str, Any], price: float) -> str:
    """Write all that is estimated.

    Args:
        found (dict): From :func:`measure`.
        price (float): Of a GPU-hour in USD.

    Returns:
        str: A table in Markdown, and what it is computed from.
    """
    steps = [Step(**dict(step, ms=tuple(step['ms']))) for step in found['steps']]
    rows = [estimate(steps, gpus).cells(price) for gpus in GPUS]
    machine, total = found['machine'], sum(found['parameters'].values())
    measured = markdown_table(
        ('images per step', 'as a CUDA graph', 'ms', 'peak memory, GiB'),
        [
            [
                str(step.images),
                'yes' if step.graph else 'no',
                write_range(step.ms),
                f'{step.gib:.1f}',
            ]
            for step in sorted(steps)
        ],
    )
    return (
        f'{markdown_table(HEADER, rows)}\n\n'
        f'At {price:g} USD for a GPU-hour. Measured on one {machine["gpu"]}, PyTorch '
        f'{machine["torch"]}, {machine["date"]}{machine.get("note", "")}:\n\n{measured}\n\n'
        f'{total:,} parameters are trained: {4 * total / 1e9:.2f} GB of gradients are exchanged in '
        'each step of several GPUs.'
    )


def write_page(page: Path, text: str) -> str:
    """Put the estimate into a page.

    Args:
        page (Path): The page.
        text (str): The estimate.

    Returns:
        str: The page's new text.

    Raises:
        ConfigError: If the page has no marks.
    """
    old = page.read_text(encoding='utf-8')
    block = re.compile(f'{BEGIN}\n.*{END}', re.DOTALL)
    if not block.search(old):
        raise ConfigError(f'{page} lacks the lines {BEGIN} and {END}')
    return block.sub(lambda _: f'{BEGIN}\n{text}\n{END}', old)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Estimate what the paper's recipe takes on ImageNet"
    )
    parser.add_argument(
        '--batches',
        nargs='+',
        type=int,
        default=[16, 32, 64, 128],
        metavar='N',
        help='images per step to measure (default: 16 32 64 128)',
    )
    parser.add_argument('--rounds', type=int, default=3, help='times each (default: 3)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='file for what is measured')
    parser.add_argument(
        '--from', dest='source', type=Path, metavar='FILE', help='read it, and measure nothing'
    )
    parser.add_argument(
        '--price', type=float, default=2.5, help='of a GPU-hour, in USD (default: 2.5)'
    )
    parser.add_argument('--page', type=Path, metavar='PAGE', help='page to write the estimate into')
    args = parser.parse_args()
    if min(*args.batches, args.rounds) < 1:
        parser.error('--batches and --rounds must be at least 1')
    return args


def main() -> None:
    args = parse_args()
    if args.source is None:
        found = measure(args.batches, args.rounds)
    else:
        found = json.loads(args.source.read_text(encoding='utf-8'))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    text = describe(found, args.price)
    print(text)
    if args.page is not None:
        args.page.write_text(write_page(args.page, text), encoding='utf-8')


if __name__ == '__main__':
    run_tool(main)
