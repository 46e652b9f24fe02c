# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
from numbers import Integral, Real
from typing import Any

from mmmokd.utils.errors import ConfigError


def check_counts(owner: str, least: int = 1, **values: Any) -> None:
    """Refuse what is not a whole number, or too small a one.

    Args:
        owner (str): Whose arguments they are, for the message.
        least (int): The smallest number allowed. Defaults to 1.
        **values (Any): Values by name of the argument.

    Raises:
        ConfigError: If a value is something else; names argument and value.
    """
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ConfigError(
                f'{name} of {owner} must be a whole number of at least {least}, but got {value!r}'
            )


def check_number(owner: str, name: str, value: Any, zero: bool = False) -> None:
    """Refuse what is not a positive number.

    Args:
        owner (str): Whose argument it is, for the message.
        name (str): Name of the argument.
        value (Any): Its value.
        zero (bool): Whether 0 is allowed as well. Defaults to False.

    Raises:
        ConfigError: If the value is something else; names argument and value.
    """
    in_range = isinstance(value, Real) and (value > 0 or (zero and value == 0))
    if not in_range or isinstance(value, bool):
        raise ConfigError(
            f'{name} of {owner} must be {"a number >= 0" if zero else "a positive number"}, but got '
            f'{value!r}'
        )
