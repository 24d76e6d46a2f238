"""The session gateway: a control plane that gives each session a node, and a data plane that forwards to it."""
