"""Experts brought into line with their base: names, rows and layouts, or the reasons why that cannot be done."""
