# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from torch import Tensor


class BranchLosses(dict[str, Tensor]):
    """The sum of each branch's losses, by name.

    mmengine's ``train_step`` passes one tensor, the total, from ``parse_losses`` to the optimizer
    wrapper, but a gradient scaler per branch needs the branch's own sum. So the total carries them
    as ``total.branch_losses``. Arithmetic on the total loses them; the optimizer wrapper refuses
    such a total where it needs the sums.
    """

    def attach_to(self, total: Tensor) -> Tensor:
        """Let the total carry these sums.

        Args:
            total (Tensor): Sum of all losses, scalar.

        Returns:
            Tensor: The same tensor.
        """
        total.branch_losses = self
        return total
