"""SPAN: scan risk of risk arrays, spreads within and between combined commodities."""
