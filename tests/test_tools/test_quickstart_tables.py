# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from quickstart_tables import cost_by_curve, describe_costs, first_reached, probe_table, speed_table

SECONDS = {'CNN alone': 10.0, 'ViT alone': 20.0, 'together': 33.0}


def test_first_epoch_with_a_value():
    points = [(0, 50.0), (2, 60.0), (4, 59.0)]
    assert [first_reached(points, value) for value in (50, 51, 60, 60.1)] == [0, 2, 2, None]


def test_alone_costs_what_both_runs_cost():
    costs = cost_by_curve(SECONDS)
    assert costs == {
        'CNN alone': 30.0, 'ViT alone': 30.0, 'CNN together': 33.0, 'ViT together': 33.0
    }  # fmt: skip
    assert 'CNN alone 10.0 s, ViT alone 20.0 s, together 33.0 s' in describe_costs(SECONDS)
    assert '1.10 of both alone' in describe_costs(SECONDS)


def test_rows():
    probes = dict(zip(cost_by_curve(SECONDS), (1.0, 2.0, 3.0, 4.125), strict=True))
    assert cells(probe_table(probes)) == [['CNN', '1.00', '3.00'], ['ViT', '2.00', '4.12']]
    curves = {
        'CNN alone': [(0, 50.0), (1, 61.0), (2, 60.0)],  # goes down in the end
        'CNN together': [(0, 40.0), (1, 58.0), (2, 60.0)],
        'ViT alone': [(0, 50.0), (1, 70.0), (2, 71.5)],
        'ViT together': [(0, 50.0), (1, 71.0), (2, 71.0)],
    }
    rows = cells(speed_table({'k-NN': curves, 'k-NN of the map': curves}, SECONDS))
    assert rows[:2] == [
        ['CNN', '60.00', '1', '2', '10', '30', '66'],
        ['ViT', '71.50', '2', 'never', '40', '60', '-'],
    ]
    assert [row[0] for row in rows[2:]] == ['CNN, map', 'ViT, map']
    assert [row[1:] for row in rows[2:]] == [row[1:] for row in rows[:2]]


def cells(table):
    """Of the rows below the header."""
    return [[cell.strip() for cell in row.split('|')[1:-1]] for row in table.splitlines()[2:]]
