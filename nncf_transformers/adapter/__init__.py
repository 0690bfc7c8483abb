"""Adapters: small trained parts on a frozen base, which may be INT8.

The layers are those of the library ``adapters`` (AdapterHub); here is what connects it to the scripts, to compression
and to the exports. Nothing in this package is imported before a flag, or a checkpoint, asks for an adapter.
"""
