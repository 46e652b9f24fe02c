# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
import ast
from typing import Any

from mmmokd.utils.errors import CheckpointError


def read_config_text(text: str) -> dict[str, Any]:
    """Read the config that mmengine keeps, as Python text, in a checkpoint's ``meta``.

    Nothing of the text is run. Read are assignments of numbers, texts, None, True, False, lists,
    tuples, dicts and ``dict(...)`` of these, which is all that a dumped config has.

    Args:
        text (str): ``meta['cfg']`` of a checkpoint.

    Returns:
        dict[str, Any]: The config's values by name.

    Raises:
        CheckpointError: If the text is not such a config.
    """
    try:
        return {
            target.id: _value(statement.value)
            for statement in ast.parse(text).body
            for target in _targets(statement)
        }
    except (SyntaxError, TypeError, RecursionError) as error:
        raise CheckpointError(f'the config in the checkpoint cannot be read: {error}') from error


def _targets(statement: ast.stmt) -> list[ast.Name]:
    if not isinstance(statement, ast.Assign) or not all(
        isinstance(target, ast.Name) for target in statement.targets
    ):
        raise CheckpointError(
            'the config in the checkpoint has more than values: line '
            f'{statement.lineno}, {ast.unparse(statement)[:60]!r}'
        )
    return statement.targets


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            raise CheckpointError(
                f'the config in the checkpoint calls {ast.unparse(node)[:60]!r} in line {node.lineno}'
            )
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs}
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    return ast.literal_eval(node)
