"""From .proto files to Python."""
