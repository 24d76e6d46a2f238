"""The node's interface, through real HTTP and WebSocket connections to a real server."""
