"""The protoc plugin and the message layout it computes."""
