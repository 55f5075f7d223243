"""The command arrow-quant."""
