"""Reference training scripts: `python -m mi_ext.train gaussians`, and likewise `mnist_halves` and `dim`.

Each writes metrics.jsonl, summary.json and a picture into the folder `--out`. They need `pip install mi_ext[train]`.
"""
