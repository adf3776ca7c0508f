"""Generated modules of protobuf's well-known types and of zerohop's options.

Written by tests/codegen/wellknown.py. Generated modules of users import them.
"""
