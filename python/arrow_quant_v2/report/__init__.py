"""A report of a quantized model: one HTML file that needs no network, and the same facts as JSON."""

from arrow_quant_v2.report.write import write_report

__all__ = ["write_report"]
