"""Which error a failed birth becomes."""

from __future__ import annotations

import errno

import pytest

from container_manager.errors import NameTaken, ResourcesExhausted, StartFailed
from container_manager.runtimes.forking import code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileExistsError(), NameTaken.code),
        (OSError(errno.EAGAIN, "no more processes"), ResourcesExhausted.code),
        (OSError(errno.ENOMEM, "no more memory"), ResourcesExhausted.code),
        (OSError(errno.EMFILE, "no more descriptors"), ResourcesExhausted.code),
        (OSError(errno.ENOSPC, "no more disk"), ResourcesExhausted.code),
        (PermissionError(errno.EACCES, "not allowed"), StartFailed.code),
        (ValueError("embedded null byte"), StartFailed.code),
    ],
)
def test_a_failed_birth_has_the_protocols_code(error: Exception, code: str) -> None:
    """A taken name and a host that has nothing left are told from every other failure."""
    assert code_of(error) == code
