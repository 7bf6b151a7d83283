"""Reference training scripts: `python -m mi_ext.train gaussians` and `python -m mi_ext.train mnist_halves`.

Each writes metrics.jsonl, summary.json and a picture into the folder `--out`. They need `pip install mi_ext[train]`.
"""
