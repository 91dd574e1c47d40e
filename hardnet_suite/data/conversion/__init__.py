"""Conversion of data sets of boxes: ``convert`` reads any format and writes another."""
