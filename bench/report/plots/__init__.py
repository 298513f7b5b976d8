"""Figures of the page, as SVG text that a page takes its colours to. Everything here needs matplotlib."""
