# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0


class RunStoppedError(RuntimeError):
    """Ends a run whose code is right; its message says all that its reader needs."""


class BadImageError(RunStoppedError):
    """An image cannot be read where none may be missing, or too many cannot be read."""


class CollapseError(RunStoppedError):
    """A branch has collapsed, and the run is to end when one has."""


class CannotWriteError(RunStoppedError):
    """A file cannot be written: the disk is full or read-only, or the folder is of another user."""
