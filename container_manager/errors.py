"""What can go wrong with a runtime: stable codes, no HTTP. Every error says what to do."""

from __future__ import annotations


class ContainerError(Exception):
    """A node could not be started, found or removed."""

    code = "CONTAINER_ERROR"


class RuntimeUnavailable(ContainerError):
    """The engine (or the fork server) does not answer: what runs is unknown, so nothing may be concluded from it."""

    code = "RUNTIME_UNAVAILABLE"


class ImageMissing(ContainerError):
    """The engine has no such image and may not pull one."""

    code = "NODE_IMAGE_MISSING"


class NameTaken(ContainerError):
    """A node of this id exists already, alive or dead; adopt or remove it."""

    code = "NODE_NAME_TAKEN"


class StartFailed(ContainerError):
    """The node ended before it answered its health check; it has been removed."""

    code = "NODE_START_FAILED"


class StartTimeout(ContainerError):
    """The node ran but never answered its health check in time; it has been removed."""

    code = "NODE_START_TIMEOUT"


class ResourcesExhausted(ContainerError):
    """The host has no memory, disk or process slots left for another node."""

    code = "NODE_RESOURCES_EXHAUSTED"
