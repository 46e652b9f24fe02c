# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import torch

from mmmokd.structures import BranchLosses


def test_total_carries_them():
    losses = BranchLosses(a=torch.tensor(1.0), b=torch.tensor(2.0))
    total = sum(losses.values())
    assert losses.attach_to(total) is total and total.branch_losses is losses
    assert not hasattr(total * 2, 'branch_losses')
