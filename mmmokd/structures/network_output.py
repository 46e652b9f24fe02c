# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mmmokd.utils.errors import ConfigError

from .backbone_features import BackboneFeatures

T = TypeVar('T')
FEATURES = ('pooled', 'tokens')  # what a network gives without a neck


class PrototypeInput(NamedTuple):
    """Logits over prototypes before they are computed.

    Attributes:
        features (Tensor): What the prototype layer would take, shape (V, B, D).
        layer (nn.Linear): The prototype layer.
    """

    features: Tensor
    layer: nn.Linear


class NetworkOutput:
    """Output of a network for V views of B images.

    ``output['pooled']`` is the backbone's pooled feature, shape (V, B, C), ``output['tokens']`` its
    tokens, shape (V, B, N, C), where all views have one map size, and ``output['projector']`` or any
    other name the output of that neck, shape (V, B, ...). A neck runs when a head first reads it,
    with or without gradients as the backbone did; all heads share the result. What no head reads is
    not computed.

    Args:
        network (nn.Module): The network, with its necks as attributes.
        passes (Sequence[BackboneFeatures]): The backbone's features, one per forward pass: views of
            one size go through together, the global views first.
        batch (int): Number B of images.

    Example:
        >>> output = network([views.globals, views.locals], batch=4)
        >>> output['projector'].shape  # (V, B, K)
        torch.Size([10, 4, 65536])
    """

    def __init__(self, network: nn.Module, passes: Sequence[BackboneFeatures], batch: int) -> None:
        self.network = network
        self.passes = list(passes)
        self.batch = batch
        self._grad = torch.is_grad_enabled()
        self._kept: dict[str, object] = {}
        self._watchers: list[tuple[str, Callable[[Tensor], object]]] = []

    def __getitem__(self, name: str) -> Tensor:
        """The output of a neck, or a feature of the backbone.

        Args:
            name (str): ``'pooled'``, ``'tokens'`` or the name of a neck.

        Returns:
            Tensor: Shape (V, B, ...).

        Raises:
            KeyError: If the network has no such neck.
            ConfigError: For ``'tokens'`` of views whose maps differ in size.
        """
        return self._keep(name, lambda: self._compute(name).unflatten(0, (-1, self.batch)))

    def neck(self, name: str) -> nn.Module:
        """A neck of the network, to be called by a head that needs more than its output.

        Args:
            name (str): Its name.

        Returns:
            nn.Module: The neck.

        Raises:
            KeyError: If the network has no such neck.
        """
        neck = getattr(self.network, name, None)
        if not isinstance(neck, nn.Module):
            raise KeyError(f'{type(self.network).__name__} has no neck {name!r}')
        return neck

    def prototype_layer(self, name: str) -> nn.Linear | None:
        """The prototype layer at the end of a neck, to be used without the neck.

        Args:
            name (str): Name of the neck.

        Returns:
            nn.Linear, optional: None if the neck has none (the class that has its ``forward`` says
            ``gives_prototypes = True``), is wrapped in another module, or its parameters are
            sharded between its calls.

        Raises:
            KeyError: If the network has no such neck.
        """
        neck = self.neck(name)
        owner = next(cls for cls in type(neck).__mro__ if 'forward' in vars(cls))
        if not vars(owner).get('gives_prototypes', False):
            return None
        sharded = any(hasattr(param, 'full_tensor') for param in neck.last_layer.parameters())
        return None if sharded else neck.last_layer

    def prototype_input(self, name: str) -> PrototypeInput | None:
        """A neck's output before its prototype layer, for losses that need no logits.

        Args:
            name (str): Name of the neck.

        Returns:
            PrototypeInput, optional: None where :meth:`prototype_layer` is.

        Raises:
            KeyError: If the network has no such neck.
        """
        layer = self.prototype_layer(name)
        if layer is None:
            return None
        features = self._keep(
            f'{name}.features',
            lambda: self._run(name, mode='features').unflatten(0, (-1, self.batch)),
        )
        return PrototypeInput(features, layer)

    def embedded(self, name: str) -> list[Tensor]:
        """The passes' tokens as a search head embeds them, once for all that reads them.

        Args:
            name (str): Name of a neck that ``embeds_maps``, such as :class:`TransformerSearchHead`.

        Returns:
            list[Tensor]: Shape (V_p * B, N_p, D) for each pass p of V_p views.

        Raises:
            ConfigError: If the neck does not embed maps.
        """
        neck = self.neck(name)
        if not getattr(neck, 'embeds_maps', False):
            raise ConfigError(
                f'a head searches the maps of {name!r}, but {type(neck).__name__} embeds none: let '
                'the head read a TransformerSearchHead'
            )
        return self._keep(f'{name}.embedded', lambda: self._embed(name))

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """A value that several heads need, computed by the first.

        Args:
            key (str): Its name; a neck's own values begin with the neck's name and a dot.
            compute (Callable): Computes it, with or without gradients as at the call.

        Returns:
            Any: What ``compute`` returned.
        """
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def watch(self, name: str, function: Callable[[Tensor], object]) -> None:
        """Call a function with the output of a neck, if and when it is computed.

        Nothing is computed for it: where heads use the layers of a neck without its output
        (:meth:`prototype_input`), or the output of the first views alone, it gets no more.

        Args:
            name (str): Name of the neck.
            function (Callable[[Tensor], object]): Takes the output, shape (V * B, ...).
        """
        self._watchers.append((name, function))

    def first(self, num_views: int) -> NetworkOutput:
        """The output of the first views alone, as if the network had seen no others.

        Necks run for these views, so that batch norms in them take their statistics of no others.
        It has gradients if this output has.

        Args:
            num_views (int): How many views; they must be those of the first passes.

        Returns:
            NetworkOutput: Shares the network and the backbone's features; all who ask for as many
            views share the results.

        Raises:
            ConfigError: If a pass has both these and other views.
        """
        passes = _first_passes(self, num_views)
        if len(passes) == len(self.passes):
            return self
        return self._keep(f'first.{num_views}', lambda: self._of(passes))

    def detach(self, num_views: int) -> NetworkOutput:
        """The same output as a target: of the first views alone, without gradients.

        Nothing is computed twice: what a head reads of either is computed for both.

        Args:
            num_views (int): How many views; they must be those of the first passes.

        Returns:
            NetworkOutput: Shares the network and the results.
        """
        return _DetachedOutput(self, num_views)

    def _of(self, passes: list[BackboneFeatures]) -> NetworkOutput:
        output = NetworkOutput(self.network, passes, self.batch)
        output._watchers = self._watchers
        return output

    def _keep(self, key: str, compute: Callable[[], T]) -> T:
        # Not as at the call: a head may read a student's output where it needs no gradient, and
        # another head reads the same output for its loss.
        with torch.set_grad_enabled(self._grad):
            return self.once(key, compute)

    def _compute(self, name: str) -> Tensor:
        if name == 'pooled':
            return torch.cat([features.pooled for features in self.passes])
        if name == 'tokens':
            if len({features.grid for features in self.passes}) > 1:
                raise ConfigError(
                    "the views' maps differ in size, "
                    f'{", ".join(str(features.grid) for features in self.passes)}: a head that '
                    "reads 'tokens' of such views takes them from `passes`"
                )
            return torch.cat([features.tokens for features in self.passes])
        hidden = self.prototype_input(name)
        if hidden is not None:
            found = self.neck(name)(hidden.features.flatten(0, 1), mode='prototypes')
        else:
            found = self._run(name)
        for watched, function in self._watchers:
            if watched == name:
                function(found)
        return found

    def _run(self, name: str, **mode: str) -> Tensor:
        neck = self.neck(name)
        if getattr(neck, 'embeds_maps', False):
            return neck(self.embedded(name), **mode)
        if getattr(neck, 'reads_maps', False):
            return neck(self.passes, **mode)
        # As mmpretrain's necks: a tuple of stages.
        source = getattr(self.network, 'sources', {}).get(name, 'pooled')
        found = neck((self[source].flatten(0, 1),), **mode)
        return found[-1] if isinstance(found, list | tuple) else found

    def _embed(self, name: str) -> list[Tensor]:
        return self.neck(name)(self.passes, mode='embed')


class _DetachedOutput(NetworkOutput):
    def __init__(self, source: NetworkOutput, num_views: int) -> None:
        passes = [
            each._replace(pooled=each.pooled.detach(), tokens=each.tokens.detach())
            for each in _first_passes(source, num_views)
        ]
        super().__init__(source.network, passes, source.batch)
        self._source = source
        self._num_views = num_views
        self._grad = False

    def first(self, num_views: int) -> NetworkOutput:
        return self._source.first(num_views).detach(num_views)

    def _compute(self, name: str) -> Tensor:
        if name == 'tokens':  # of these views alone, whose maps may be of one size
            return super()._compute(name)
        return self._source[name][: self._num_views].detach().flatten(0, 1)

    def _run(self, name: str, **mode: str) -> Tensor:
        features = self._source.prototype_input(name).features
        return features[: self._num_views].detach().flatten(0, 1)

    def _embed(self, name: str) -> list[Tensor]:
        return [tokens.detach() for tokens in self._source.embedded(name)[: len(self.passes)]]


def _first_passes(output: NetworkOutput, num_views: int) -> list[BackboneFeatures]:
    """The passes of the first views."""
    passes, count = [], 0
    for features in output.passes:
        if count >= num_views:
            break
        passes.append(features)
        count += len(features.pooled) // output.batch
    if count != num_views:
        raise ConfigError(
            f'the first {num_views} views are not those of whole passes, but {count} are'
        )
    return passes
