"""The session gateway: a control plane that gives each session a node, and a data plane that forwards to it."""

__version__ = "0.1.0"
