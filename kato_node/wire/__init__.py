"""The published contract: schemas, the error envelope, header names and the gateway-to-node control messages."""
