"""Losses under the names and signatures of other packages: `mi_ext.dropin.<package>`; users change an import line."""
