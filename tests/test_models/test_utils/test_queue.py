# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F

from mmmokd.models.utils import EmbeddingQueue, queue

WIDTHS = dict(student=3, teacher=5)


def build(length=7):
    return EmbeddingQueue(length, WIDTHS, dict(index=torch.long))


def images(count, start=0):
    """Embeddings of some images, not normalized, and their indices."""
    generator = torch.Generator().manual_seed(start)
    rows = {name: torch.randn(count, width, generator=generator) for name, width in WIDTHS.items()}
    return dict(rows, index=torch.arange(start, start + count))


def oldest_first(queue):
    """Rows of all columns as a list, from the one that is overwritten next."""
    columns = {name: queue[name] for name in (*WIDTHS, 'index')}
    order = [(int(queue.pointer) + i) % queue.length for i in range(queue.length)]
    return [{name: column[i] for name, column in columns.items()} for i in order]


def plain_push(rows, batch):
    """A plain list: its first rows go, those of the batch come last."""
    normalized = {name: F.normalize(batch[name], dim=1) for name in WIDTHS}
    count = len(batch['index'])
    new = [
        dict({k: v[i] for k, v in normalized.items()}, index=batch['index'][i])
        for i in range(count)
    ]
    return [*rows[count:], *new]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in other:
            assert torch.equal(one[name], other[name])


def test_it_is_a_plain_list():
    """Also where the length is not a multiple of a batch, and a batch is as long as the queue."""
    queue = build()
    expected = oldest_first(queue)
    assert all(row['index'] == -1 for row in expected)
    for name in WIDTHS:
        torch.testing.assert_close(queue[name].norm(dim=1), torch.ones(7))
    for step, count in enumerate((3, 3, 3, 1, 7, 2)):
        batch = images(count, 10 * step)
        queue.push(**batch)
        expected = plain_push(expected, batch)
        assert_equal(oldest_first(queue), expected)
    assert [int(row['index']) for row in expected] == [42, 43, 44, 45, 46, 50, 51]


def test_a_step_pushes_once():
    """Micro-batches see the queue that the whole batch sees, and leave what it leaves."""
    whole, parts = build(), build()
    for start in (0, 6):
        batch, before = images(6, start), parts.state_dict()
        before = {name: value.clone() for name, value in before.items()}
        whole.push(**batch)
        for i in range(3):
            parts.accumulating = i < 2
            assert_equal([parts.state_dict()], [before])
            parts.push(**{name: value[2 * i : 2 * i + 2] for name, value in batch.items()})
        assert_equal([parts.state_dict()], [whole.state_dict()])


def test_rows_of_all_processes(monkeypatch):
    """Both processes end with the same rows: those of one process that had all images."""
    found = []
    for _ in range(2):
        monkeypatch.setattr(queue, 'all_gather', lambda x: [x, x + 1 if x.dim() == 1 else -x])
        each = build()
        each.push(**images(2))
        found.append(each)
    assert found[0]['index'].tolist() == [0, 1, 1, 2, -1, -1, -1]
    torch.testing.assert_close(found[0]['student'][2:4], -found[0]['student'][:2])
    assert_equal([found[0].state_dict()], [found[1].state_dict()])


def test_it_continues_where_it_was():
    one = build()
    one.push(**images(5))
    other = build()
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.push(**images(4, 5))
    assert_equal([other.state_dict()], [one.state_dict()])
    assert set(one.state_dict()) == {'student', 'teacher', 'index', 'pointer'}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Rows are normalized in float32, under autocast as well, and no square overflows."""
    rows = images(2)
    rows = dict(rows, student=(rows['student'] * 1000).to(dtype), teacher=rows['teacher'].to(dtype))
    each = build()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        each.push(**rows)
    for name in WIDTHS:
        expected = F.normalize(rows[name].float(), dim=1)
        assert torch.equal(each[name][:2], expected)


def test_what_was_read_stays():
    """A backward pass may come after the push."""
    each = build()
    query = torch.randn(2, 3, requires_grad=True)
    read = each['student']
    loss = (query @ read.t()).square().sum()
    expected = 2 * query.detach() @ read.t() @ read
    each.push(**images(6))
    loss.backward()
    torch.testing.assert_close(query.grad, expected)


def test_a_batch_that_is_too_long():
    each = build()
    each.accumulating = True
    each.push(**images(4))
    each.accumulating = False
    with pytest.raises(ValueError, match=r'queue of 7 .* shorter than the 8 images .* at least 8'):
        each.push(**images(4))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(student=None), "takes as many rows of each, but got {'teacher': 2, 'index': 2}"),
        (dict(other=torch.rand(2, 3)), "student, teacher, index takes .* 'other': 2"),
        (dict(index=torch.arange(3)), "'index': 3"),
    ],
)
def test_rows_that_do_not_fit(change, message):
    rows = {name: value for name, value in {**images(2), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        build().push(**rows)


def test_what_is_no_queue():
    with pytest.raises(ValueError, match='length of a queue must be a whole number of at least 1'):
        EmbeddingQueue(0, dict(keys=2))
    with pytest.raises(ValueError, match='keys of a queue must be a whole number'):
        EmbeddingQueue(4, dict(keys=None))
    with pytest.raises(KeyError, match="has no 'keys': it has 7, student, teacher, index"):
        build()['keys']
